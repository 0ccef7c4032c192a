"""Stored weights: a server that rounds a model's matrices gives the bits of a server whose model was
rounded beforehand, and says so in every reply."""
import concurrent.futures
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import wire
from gpt2_files import DEMO
from random_requests import random_request

SEEDS = range(16)
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def to_bf16(matrix, axis):
    bits = matrix.view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7fff + (bits >> 16 & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32)


def to_int8(matrix, axis):
    """`axis` is the one that a product sums over: the other has the scales."""
    scale = np.abs(matrix).max(axis, keepdims=True) / np.float32(127)
    quotient = np.divide(matrix, scale, out=np.zeros_like(matrix), where=scale > 0)
    return np.rint(quotient).clip(-127, 127) * scale


ROUND = {"bf16": to_bf16, "int8": to_int8}


@pytest.fixture(scope="module", params=[*ROUND])
def tier(request, tmp_path_factory):
    """(name, a folder with the demo model rounded in float32). The embedding stays what it was, so
    that the head becomes a tensor of its own."""
    round_to = ROUND[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(DEMO / "config.json", folder)
    tensors = {name: tensor.astype(np.float32) for name, tensor in
               safetensors.numpy.load_file(DEMO / "model.safetensors").items()}
    embedding = next(t for name, t in tensors.items() if name.endswith("wte.weight"))
    rounded = {name: round_to(t, 0) if name.endswith(MATRICES) else t
               for name, t in tensors.items()}
    rounded["lm_head.weight"] = round_to(embedding, 1)
    assert all(t.dtype == np.float32 for t in rounded.values())
    safetensors.numpy.save_file(rounded, folder / "model.safetensors")
    return request.param, folder


def answers(host, sizes):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        requests = (random_request(seed, sizes) for seed in SEEDS)
        return list(pool.map(lambda r: wire.raw(host, r), requests))


def model_of(host):
    return json.loads(wire.call(host, "GET", "/v1/models")[2])["models"][0]


def test_the_bits_are_those_of_a_model_that_was_rounded_beforehand(start_server, server, tier):
    name, folder = tier
    sizes = model_of(server.host)
    with start_server("--model", folder) as beforehand:
        expected = answers(beforehand.host, sizes)
    with start_server("--weights", name) as stored:
        got = answers(stored.host, sizes)
    with start_server("--weights", name, "--isa", "plain", "--threads", "1") as plain:
        alone = [wire.raw(plain.host, random_request(seed, sizes)) for seed in SEEDS[:4]]
    assert got == expected and alone == expected[:4]
    assert got != answers(server.host, sizes)


def test_every_reply_says_how_weights_are_stored(start_server, server):
    request = {"prompt": [1, 2], "save": {"last": "lm_head.output"}}
    with start_server("--weights", "int8") as stored:
        for host, numerics in ((server.host, "exact"), (stored.host, "exact on int8 weights")):
            assert model_of(host)["numerics"] == numerics
            assert wire.frames_of(host, request)[0]["numerics"] == numerics
