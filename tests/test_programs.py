"""Random programs (programs.py) through the Python client against torch on Hugging Face's GPT-2:
2,000 of them, and what once failed. Then the same programs in both encodings, and from
eight connections at once: the same bits."""
import base64
import collections
import concurrent.futures
import io
import json
import math
import pathlib

import msgpack
import numpy as np
import pytest
import torch

import oracle
import programs
import wire
from test_emulated import EMULATED, SMALL, bytes_of

N_PROGRAMS = 2000
KEPT = pathlib.Path(__file__).with_name("programs_kept.jsonl")


@pytest.fixture(scope="module")
def checker(start_server, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("programs") / "random"
    oracle.random_gpt2(folder, **programs.SIZES)
    with start_server("--model", str(folder)) as server:
        checker = programs.Checker(server.host, folder)
        checker.host, checker.folder = server.host, folder
        yield checker


@pytest.fixture(scope="module")
def outcomes(checker):
    """Seed -> outcome, of as many as it takes for 2,000 to be compared."""
    found, n_compared = {}, 0
    while n_compared < N_PROGRAMS and len(found) < 2 * N_PROGRAMS:
        seed = len(found)
        found[seed] = checker.check(programs.program_of(seed))
        n_compared += found[seed].is_compared
    return found


@pytest.mark.parametrize("line", KEPT.read_text().splitlines())
def test_what_once_failed(checker, line):
    document = json.loads(line)
    outcome = checker.check(programs.Program.of_json(document["program"]))
    assert outcome.is_compared, f"{document['found']}\n{outcome.text}"


def test_programs_are_what_torch_computes(outcomes):
    failed = {seed: o.text for seed, o in outcomes.items() if o.kind in ("refused", "wrong")}
    assert failed == {}, "tests/programs.py --shrink SEED says more"
    kinds = collections.Counter(o.kind for o in outcomes.values())
    n_compared, n_left_out = (sum(column) for column in zip(*(o[-2:] for o in outcomes.values())))
    print(dict(kinds), n_compared, n_left_out)
    assert kinds["equal"] + kinds["partly"] >= N_PROGRAMS
    assert kinds["uncertain"] <= len(outcomes) / 200
    assert n_left_out <= n_compared / 100
    assert sum(is_unequal(o.sent) for o in outcomes.values() if o.is_compared) > N_PROGRAMS / 5


def is_unequal(sent):
    """Whether prompts of one invoke differ in length."""
    return any(len({*map(len, prompts)}) > 1 for trace in sent.program.traces
               for prompts in trace.own().values())


def test_every_op_place_and_context_is_reached(checker, outcomes):
    used = {row for o in outcomes.values() if o.is_compared for row in o.sent.counts()}
    spec = json.loads(wire.call(checker.host, "GET", "/v1/spec")[2])
    wanted = {("op", row["name"]) for row in spec["ops"]}
    wanted |= {("hook", row["path"]) for row in spec["points"]}
    wanted |= {("parameter", row["path"]) for row in spec["parameters"]}
    wanted |= {("apply", path) for path in spec["modules"]}
    wanted |= {("context", each) for each in programs.CONTEXTS}
    wanted |= {(values, each) for values in ("of an earlier trace", "of all prompts")
               for each in programs.USING}
    assert wanted - used == set(), "add rows to tests/program_rows.py"


def test_programs_that_reach_everything_have_the_same_bits_on_the_emulated_device(
        checker, start_server, outcomes):
    """Every op, every name of a hook point, and a set of every point that can be."""
    spec = json.loads(wire.call(checker.host, "GET", "/v1/spec")[2])
    wanted = {("op", row["name"]) for row in spec["ops"]}
    wanted |= {("hook", row["path"]) for row in spec["points"]}
    wanted |= {("set", row["point"]) for row in spec["points"] if row["writable"]}
    point_of = {row["path"]: row["point"] for row in spec["points"]}
    reached = {seed: {row for row in o.sent.counts() if row in wanted}
               | {("set", point_of[path]) for path in o.sent.set_paths() if path in point_of}
               for seed, o in outcomes.items() if o.is_compared}
    chosen = []
    while wanted:
        chosen.append(max(reached, key=lambda seed: len(reached[seed] & wanted)))
        assert reached[chosen[-1]] & wanted, f"add rows to tests/program_rows.py: {wanted}"
        wanted -= reached[chosen[-1]]
    assert len(chosen) < 40
    with start_server("--model", str(checker.folder), "--device", "cuda:0", *SMALL,
                      binary=EMULATED / "interposed") as cuda:
        for seed in chosen:
            request = outcomes[seed].sent.request
            assert bytes_of(cuda.host, request) == bytes_of(checker.host, request), seed


def assert_is(sent, saved, generated):
    """Whether a reply holds the bits of the first one, and beside them only conditions
    and what was saved under one that does not hold."""
    assert generated == sent.generated
    first = collections.Counter(x.tobytes() for x in sent.saved.values() if x is not None)
    assert first - collections.Counter(saved.values()) == collections.Counter()


def test_a_program_gives_the_same_bits_among_others(checker, outcomes):
    sent = [o.sent for o in outcomes.values() if o.sent is not None]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for s, reply in zip(sent, pool.map(lambda s: wire.raw(checker.host, s.request), sent)):
            assert_is(s, *reply)


def as_json(value):
    """A request as JSON has it: constants' bytes as base64, texts for what is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


def test_both_encodings_of_a_program_give_the_same_bits(checker, outcomes):
    for s in [o.sent for o in outcomes.values() if o.sent is not None][:200]:
        status, _, data = wire.call(checker.host, "POST", "/v1/run", json.dumps(as_json(s.request)),
                                    {"Content-Type": "application/json",
                                     "Accept": "application/msgpack"})
        assert status == 200, data
        frames = list(msgpack.Unpacker(io.BytesIO(data)))
        saved = {i: f["data"] for i, f in enumerate(frames) if f["type"] == "tensor"}
        assert_is(s, saved, frames[-1]["generated"])
        status, reply = wire.post_json(checker.host, "/v1/run", as_json(s.request))
        assert status == 200, reply
        for frame, text in zip(frames, reply["frames"]):
            if frame["type"] == "tensor":
                array = np.array(numbers_of(text["data"]), frame["dtype"])
                assert array.size * array.itemsize == len(frame["data"])
                expected = np.frombuffer(frame["data"], frame["dtype"])
                np.testing.assert_array_equal(array, expected)


def numbers_of(data):
    """The numbers of nested lists, one behind the other."""
    if isinstance(data, list):
        return [x for item in data for x in numbers_of(item)]
    return [float(data) if isinstance(data, str) else data]


def test_a_wrong_value_is_found_and_its_program_is_shrunk(checker, outcomes, monkeypatch):
    """The checker is no use where it cannot fail: torch's tanh is made another one."""
    uses = [seed for seed, o in outcomes.items() if o.kind == "equal"
            and ("op", "tanh") in o.sent.counts()][:60]
    monkeypatch.setattr(torch.Tensor, "tanh", lambda x: x.sigmoid())
    wrong = [seed for seed in uses if checker.check(programs.program_of(seed), 1).kind == "wrong"]
    assert len(wrong) > len(uses) / 2
    least = checker.shrunk(programs.program_of(wrong[0]))
    assert "tanh" in least.source() and len(least.statements) <= 6
