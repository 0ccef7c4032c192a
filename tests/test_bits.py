"""One request, one set of bits: alone, beside any neighbours, on any number of threads, under every
instruction set, prefilled or decoded. Everything here is compared as bytes."""
import concurrent.futures
import json
import random

import pytest

import wire
from random_requests import random_request

SEEDS = range(36)


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
                                          "max_new_tokens": n_new, "eos_token_id": []})
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


# What lies inside of attention: who looks takes the kernel's bits, and so does who sets the same.
INSIDE = ["scores", "pattern"]
ROWS = [([3, 1, 4], 0), (list(range(63)), 2), (list(range(64)), 2), (list(range(150)), 3)]


def inside_request(prompt, n_new, touched):
    """What comes behind attention in each step, where `touched` adds nodes to the graph."""
    nodes = [node for step in range(max(1, n_new)) for block in (0, 2) for node in
             touched(f"transformer.h.{block}.attn", step)]
    nodes = [{**node, "args": [{"node": i + a["behind"]} if isinstance(a, dict) else a
                               for a in node["args"]]} for i, node in enumerate(nodes)]
    for step in range(max(1, n_new)):
        for path in ("transformer.h.0.attn.z.output", "transformer.h.2.attn.z.output",
                     "lm_head.output"):
            nodes.append({"op": "save", "args": [path], "step": step, "name": f"{path} {step}"})
    return {"invokes": [{"prompt": [prompt, prompt[::-1]]}, {"prompt": prompt[:2]}],
            "max_new_tokens": n_new, "nodes": nodes}


def looks(point):
    return lambda attn, step: [{"op": "save", "args": [f"{attn}.{point}.output"], "step": step,
                                "name": f"{attn} {step}"}]


def sets_the_same(point):
    return lambda attn, step: [
        {"op": "hook", "args": [f"{attn}.{point}.output"], "step": step},
        {"op": "mul", "args": [{"behind": -1}, 1.0]},
        {"op": "set", "args": [{"behind": -2}, {"behind": -1}]}]


@pytest.mark.parametrize("prompt, n_new", ROWS, ids=[f"{len(p)}+{n}" for p, n in ROWS])
@pytest.mark.parametrize("point", [*INSIDE, "result"])
def test_attention_from_inside_has_the_bits_of_the_kernel(server, prompt, n_new, point):
    """In two invokes, of which the second is hooked nowhere."""
    plain, ids = wire.raw(server.host, inside_request(prompt, n_new, lambda attn, step: []))
    for touched in [looks(point)] + [sets_the_same(point)] * (point in INSIDE):
        saved, same_ids = wire.raw(server.host, inside_request(prompt, n_new, touched))
        assert same_ids == ids
        assert {key: saved[key] for key in plain} == plain


def test_a_written_pattern_leaves_the_neighbour_its_bits(server):
    prompt = list(range(70))
    plain, _ = wire.raw(server.host, inside_request(prompt, 0, lambda attn, step: []))
    nodes = [{"op": "set", "args": ["transformer.h.0.attn.pattern.output", 0.0]}]
    request = inside_request(prompt, 0, lambda attn, step: nodes)
    request["nodes"] += [{"op": "save", "args": ["lm_head.output"], "invoke": 1, "name": "beside"}]
    alone = {"prompt": prompt[:2], "save": {"beside": "lm_head.output"}}
    saved, _ = wire.raw(server.host, request)
    assert saved["beside", 0] == wire.raw(server.host, alone)[0]["beside", 0]
    assert saved["lm_head.output 0", 0] != plain["lm_head.output 0", 0]
    assert not any(saved["transformer.h.0.attn.z.output 0", 0])
