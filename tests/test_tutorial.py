"""The tutorial: as `make demo` shows it, and word for word as it was published."""
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import interpose

CLIENTS = pathlib.Path(__file__).resolve().parent.parent / "clients"

# What must run unchanged, but for the model's name and address.
PUBLISHED = '''
from interpose import LanguageModel

model = LanguageModel("gpt2", host="http://127.0.0.1:8000")   # or INTERPOSE_HOST; by HF repo id, or the demo model's name

# 1. Generate, reading one activation on the way. Nothing runs until the outer block ends.
with model.generate(max_new_tokens=1) as generator:
    with generator.invoke("The Eiffel Tower is in the city of") as invoker:
        hidden_states = model.transformer.h[-1].output[0].save()

print([model.tokenizer.decode(t) for t in generator.output])  # ['The Eiffel Tower is in the city of Paris']
hidden_states.value                                            # (1, 10, 768)

# 2. Shapes before running, also of inputs and of nested outputs.
with model.generate(max_new_tokens=1) as generator:
    with generator.invoke(tokens) as invoker:                  # a list of token ids works as a prompt too
        model.transformer.h[-1].output.shape                   # ((1, 10, 768), ((1, 12, 10, 64), (1, 12, 10, 64)))
        x = model.transformer.h[2].input[0][0].save()

# 3. Two invokes in one run: one as it is, one with head 7 of block 0 ablated. Compare losses.
with model.generate(max_new_tokens=1) as generator:
    with generator.invoke(tokens) as invoker:
        normal = model.lm_head.output.save()
    with generator.invoke(tokens) as invoker:
        value = model.transformer.h[0].attn.value.output
        value[:, 7, :, :] = 0.
        ablated = model.lm_head.output.save()

interpose.cross_entropy_loss(normal.value, tokens, shift=True)
interpose.cross_entropy_loss(ablated.value, tokens, shift=True)  # noticeably higher
'''


@pytest.fixture(scope="module")
def names(server):
    """Everything that the published text defines."""
    name = json.loads(server.get("/v1/models")[1])["models"][0]["name"]
    text = PUBLISHED.replace('"gpt2"', repr(name)).replace("http://127.0.0.1:8000", server.host)
    tokens = interpose.LanguageModel(name, host=server.host).tokenizer.encode(
        "The Eiffel Tower is in the city of")
    found = {"interpose": interpose, "tokens": tokens}
    exec(compile(text, "tutorial", "exec"), found)
    return found


def test_the_published_tutorial_says_paris(names):
    decoded = [names["model"].tokenizer.decode(t) for t in names["generator"].output]
    assert decoded[0] == "The Eiffel Tower is in the city of Paris"
    assert len(decoded) == 2    # the second is the ablated model's


def test_the_published_tutorial_has_the_shapes(names):
    n, width = len(names["tokens"]), names["model"].config.width
    assert n == 10
    assert names["hidden_states"].value.shape == names["x"].value.shape == (1, n, width)
    assert names["normal"].value.shape == (1, n, names["model"].config.vocab)
    assert names["hidden_states"].value.dtype == np.float32


def test_the_published_tutorial_s_ablation_costs(names):
    normal, ablated = (interpose.cross_entropy_loss(names[which].value, names["tokens"], shift=True)
                       for which in ("normal", "ablated"))
    assert 0 < normal < ablated


def run_tutorial(host):
    return subprocess.run(
        [sys.executable, str(CLIENTS / "tutorial.py")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "INTERPOSE_HOST": host, "PYTHONPATH": os.pathsep.join(
            [str(CLIENTS / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])})


def test_the_tutorial_is_shown_with_its_results(server):
    done = run_tutorial(server.host)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = done.stdout.splitlines()
    assert "  => ['The Eiffel Tower is in the city of Paris']" in lines
    assert "        value[:, 7, :, :] = 0." in lines
    loss = [i for i, line in enumerate(lines) if line.startswith("interpose.cross_entropy_loss")]
    normal, ablated = (float(lines[i + 1].replace("=>", "")) for i in loss)
    assert normal < ablated


def test_the_tutorial_fails_without_a_server():
    done = run_tutorial("http://127.0.0.1:1")
    assert done.returncode == 1
    assert "no server at http://127.0.0.1:1: start one with `make run`" in done.stderr
