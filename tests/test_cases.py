"""Each folder of tests/cases is a request and what must come of it: error.json, the refusal word for
word with its HTTP status, or reply.json, the saved tensors' names, shapes, dtypes and, where they do
not depend on the model, values. Requests that are JSON are sent as msgpack too and must fare alike.
"""
import json
import pathlib

import msgpack
import pytest

import wire

CASES = sorted(p for p in (pathlib.Path(__file__).parent / "cases").iterdir() if p.is_dir())
GOOD = {"prompt": [1, 2, 3], "save": {"x": "transformer.h.0.output[0][:, -1, :2]"}}


def unique_keys(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice, which a dict cannot say")
    return dict(pairs)


def is_json(body):
    try:
        return isinstance(json.loads(body, object_pairs_hook=unique_keys), dict)
    except ValueError:
        return False


def encodings(body):
    yield "json", "application/json", body
    if is_json(body):
        yield "msgpack", "application/msgpack", msgpack.packb(json.loads(body))


def shape_of(data):
    shape = []
    while isinstance(data, list):
        shape.append(len(data))
        data = data[0] if data else None
    return shape


def reply_facts(frames):
    facts = {}
    for frame in frames:
        if frame["type"] == "tensor":
            facts[f"{frame['name']}@{frame['step']}"] = {
                "dtype": frame["dtype"], "shape": frame["shape"], "data": frame["data"]}
    return facts


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
def test_case(server, case):
    body = (case / "request.json").read_bytes()
    refusal = case / "error.json"
    expected = json.loads((refusal if refusal.exists() else case / "reply.json").read_text())
    for name, media, data in encodings(body):
        status, _, reply = wire.call(server.host, "POST", expected.get("route", "/v1/run"), data,
                                     {"Content-Type": media, "Accept": "application/json"})
        got = json.loads(reply)
        if refusal.exists():
            error = {k: v for k, v in got["error"].items() if k != "request_id"}
            assert {"status": status, **error} == expected, name
        else:
            assert status == 200, got
            assert got["frames"][-1]["type"] == "end"
            facts = reply_facts(got["frames"])
            assert facts.keys() == expected["tensors"].keys(), name
            for key, want in expected["tensors"].items():
                assert shape_of(facts[key]["data"]) == facts[key]["shape"]
                assert {k: facts[key][k] for k in want} == want, (name, key)
    good, _ = wire.run(server.host, GOOD)
    assert good["x", 0].shape == (1, 2)


def test_there_are_cases_of_both_kinds():
    assert sum((c / "error.json").exists() for c in CASES) > 20
    assert sum((c / "reply.json").exists() for c in CASES) > 5
