"""Models for tests, made on the spot, and what build/tests/pass_tool says about them."""

import os
import pathlib
import subprocess

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "build" / "tests" / "pass_tool"
DEMO = ROOT / "models" / "demo"


def random_model(seed=0, **sizes):
    """A GPT-2 whose biases and layernorms are random too: a wrong one would show."""
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def random_ids(model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (count,), generator=generator)


def tool(command, folder, ids=(), passes=(), **environment):
    """The finished process of pass_tool."""
    return subprocess.run(
        [TOOL, command, folder, *map(str, passes)],
        input=np.asarray(ids, dtype=np.int32).tobytes(),
        capture_output=True,
        timeout=600,
        env={**os.environ, **environment},
    )


def activations(command, folder, ids, passes):
    """One {(point, block): array} for each pass."""
    done = tool(command, folder, ids, passes)
    assert done.returncode == 0, done.stderr.decode()
    found, at = [], 0
    while at < len(done.stdout):
        end = done.stdout.index(b"\n", at)
        point, block, dtype, *shape = done.stdout[at:end].decode().split()
        shape = tuple(map(int, shape))
        count = int(np.prod(shape))
        value = np.frombuffer(done.stdout, dtype, count, end + 1).reshape(shape)
        at = end + 1 + value.nbytes
        if not found or (point, int(block)) in found[-1]:
            found.append({})
        found[-1][point, int(block)] = value
    assert len(found) == len(passes)
    return found


def logits(folder, ids):
    return activations("logits", folder, ids, [len(ids)])[0]["logits", 0]
