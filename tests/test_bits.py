"""One request, one set of bits: alone, beside any neighbours, on any number of threads, under every
instruction set, prefilled or decoded. Everything here is compared as bytes."""
import concurrent.futures
import json
import random

import pytest

import wire
from random_requests import random_request

SEEDS = range(48)


@pytest.fixture(scope="module")
def sizes(server):
    facts = json.loads(wire.call(server.host, "GET", "/v1/models")[2])["models"][0]
    return {"n_blocks": facts["n_blocks"], "vocab": facts["vocab"], "context": facts["context"]}


@pytest.fixture(scope="module")
def alone(server, sizes):
    """seed -> what its request gives when nobody else is there."""
    return {seed: wire.raw(server.host, random_request(seed, sizes)) for seed in SEEDS}


def differing(expected, got):
    tensors, ids = expected
    if ids != got[1]:
        return "generated ids"
    return [key for key in tensors if tensors[key] != got[0].get(key)] or None


def test_the_requests_are_worth_comparing(alone):
    assert sum(len(tensors) for tensors, _ in alone.values()) > 150
    assert len({value for tensors, _ in alone.values() for value in tensors.values()}) > 150


def test_again_alone(server, sizes, alone):
    for seed in SEEDS:
        assert not differing(alone[seed], wire.raw(server.host, random_request(seed, sizes)))


@pytest.mark.parametrize("order", range(4))
def test_among_fifteen_others(server, sizes, alone, order):
    """Sixteen clients at once send the requests in random order; every fourth neighbour writes NaN
    and infinities into its own activations."""
    rng = random.Random(order)
    work = [(seed, False) for seed in SEEDS] + [(1000 + i, True) for i in range(len(SEEDS) // 3)]
    rng.shuffle(work)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        futures = {pool.submit(wire.raw, server.host, random_request(seed, sizes, wild)): seed
                   for seed, wild in work}
        for future in concurrent.futures.as_completed(futures):
            seed, got = futures[future], future.result()
            if seed in alone:
                assert not differing(alone[seed], got), f"request {seed}"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_threads_and_instruction_sets(start_server, machine_isas, sizes, alone, threads, isa):
    if isa not in machine_isas:
        pytest.skip(f"this machine has no {isa}")
    with start_server("--threads", str(threads), "--isa", isa) as other:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = pool.map(lambda s: wire.raw(other.host, random_request(s, sizes)), SEEDS)
            for seed, got in zip(SEEDS, results):
                assert not differing(alone[seed], got), f"request {seed}"


@pytest.mark.parametrize("length, n_new", [(1, 8), (7, 5), (60, 12), (130, 3)])
def test_decoded_equals_prefilled(server, sizes, length, n_new):
    """Every row that a generation saw, one at a time, has the bits of one pass over the whole text."""
    rng = random.Random(length)
    prompt = [rng.randrange(sizes["vocab"]) for _ in range(length)]
    last = sizes["n_blocks"] - 1
    paths = {"mid": "transformer.h.0.attn.z.output", "out": f"transformer.h.{last}.output[0]",
             "logits": "lm_head.output"}

    def saves(step):
        return [{"op": "save", "args": [path], "name": f"{name}.{step}", "step": step}
                for name, path in paths.items()]

    nodes = [node for step in range(n_new) for node in saves(step)]
    stepped, end = wire.run(server.host, {"invokes": [{"prompt": prompt}], "nodes": nodes,
                                          "max_new_tokens": n_new})
    new = end["generated"][0][0]
    assert len(new) == n_new
    whole, _ = wire.run(server.host, {"invokes": [{"prompt": prompt + new[:-1]}],
                                      "nodes": saves(0)})
    for name in paths:
        full = whole[f"{name}.0", 0]
        axis = 2 if name == "mid" else 1
        assert full.take(range(length), axis).tobytes() == stepped[f"{name}.0", 0].tobytes()
        for step in range(1, n_new):
            row = full.take([length + step - 1], axis)
            assert row.tobytes() == stepped[f"{name}.{step}", step].tobytes(), (name, step)
