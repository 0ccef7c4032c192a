"""protocol/decode.c: a request means the same as JSON and as msgpack, or is refused for the same
reason. Random requests in every form, and the same with something wrong.

The C side is build/tests/decode_tool, which answers with everything that a graph says.
"""

import base64
import copy
import json
import pathlib
import random
import struct
import subprocess

import msgpack
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "build" / "tests" / "decode_tool"
CASES = sorted((ROOT / "tests" / "cases").glob("*/request.json"))

PATHS = ["transformer.wte.output", "transformer.h.0.output[0]", "transformer.h.-1.output[1][0]",
         "transformer.h.3.attn.value.output", "blocks.5.hook_resid_post", "blocks.11.attn.hook_z",
         "lm_head.output", "hook_tokens", "generator.output"]
INDICES = ["[0]", "[:, 7]", "[..., None, 2:5]", "[-1]", "[:, ::2][1:]", "[ 1 , : ]", "[::1]"]
VIEWS = [("transpose", [0, 1]), ("permute", [[0, 2, 1]]), ("reshape", [[1, -1]]), ("flatten", []),
         ("flatten", [1, None]), ("unsqueeze", [-1]), ("squeeze", []), ("expand", [[2, -1, -1]]),
         ("sum", [-1, True]), ("mean", [[0, 1]]), ("argmax", [None, False]), ("softmax", [-1]),
         ("to", ["int64"]), ("to", ["torch.float32"]), ("getitem", ["[:, 7]"]),
         ("getitem", [[1, None, "...", {"slice": [None, -2, 3]}]])]
UNARY = ["neg", "exp", "relu", "isnan", "logical_not", "clone"]
BINARY = ["add", "sub", "maximum", "eq", "matmul", "pow"]

# What takes the place of something in a request to make it wrong, or not.
WRONG = [None, True, False, 0, 1, -1, 7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 0.5, -1e300,
         "", "x", "v1", "[0", "NaN", "-Infinity", "lm_head.output", "lm_head.outptu[", "12",
         "caf\u00e9 \u4e2d\U0001f468", "a\0b", "x" * 65, [], [[]], [1, [2]], [1.5, True],
         {}, {"node": 0}, {"node": "v0"}, {"tensor": [1, 2]}, {"slice": [1, 2, 3]}, {"x": 1}]


class Maker:
    """A random request, in forms that a person or a client would write."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.names, self.count = [], 0

    def constant(self):
        rng = self.rng
        kind = rng.randrange(5)
        if kind == 0:
            return {"tensor": [[rng.random(), 1], [2, "NaN"]]}
        if kind == 1:
            return {"tensor": [rng.randrange(9) for _ in range(rng.randrange(4))],
                    "dtype": rng.choice(["int64", "float32"])}
        if kind == 2:
            return {"tensor": [[True], [False]], "shape": [2, 1]}
        count = rng.randrange(5)
        return {"tensor": struct.pack(f"<{count}f", *range(count)), "dtype": "float32",
                "shape": [count]}

    def expression(self):
        text = self.rng.choice(self.names if self.names and self.rng.random() < 0.5 else PATHS)
        return text + (self.rng.choice(INDICES) if self.rng.random() < 0.5 else "")

    def tensor(self):
        rng = self.rng
        if self.count and rng.random() < 0.5:
            return {"node": rng.randrange(self.count)}
        if self.names and rng.random() < 0.2:
            return {"node": rng.choice(self.names)}
        return self.constant() if rng.random() < 0.3 else self.expression()

    def value(self):
        return self.rng.choice([self.tensor(), 1, 0.0, -2.5, True, "Infinity"])

    def node(self):
        rng = self.rng
        kind = rng.randrange(8)
        fields = {"op": "hook", "args": [rng.choice(PATHS)]}
        if kind == 1:
            fields = {"op": rng.choice(UNARY), "args": [self.tensor()]}
        elif kind == 2:
            fields = {"op": rng.choice(BINARY), "args": [self.tensor(), self.value()]}
        elif kind == 3:
            op, rest = copy.deepcopy(rng.choice(VIEWS))
            fields = {"op": op, "args": [self.tensor(), *rest]}
        elif kind == 4:
            fields = {"op": "cat", "args": [[self.tensor() for _ in range(rng.randrange(1, 4))]],
                      "kwargs": {"dim": -1}}
        elif kind == 5:
            fields = {"op": "set", "args": [self.expression(), self.value()]}
        elif kind == 6:
            fields = {"op": "save", "args": [self.tensor()], "name": f"s{self.count}"}
        elif kind == 7:
            fields = {"op": "constant", "args": [self.constant()]}
        if rng.random() < 0.3:
            fields["step"] = rng.randrange(3)
        if rng.random() < 0.3:
            fields["invoke"] = 0
        if rng.random() < 0.4 and "name" not in fields:
            fields["name"] = f"v{self.count}"
        if "name" in fields and kind != 6:
            self.names.append(fields["name"])
        self.count += 1
        return fields

    def prompt(self):
        ids = [self.rng.randrange(50257) for _ in range(self.rng.randrange(1, 4))]
        return self.rng.choice(["The Eiffel Tower", "caf\u00e9 \u4e2d", ids, ["a", ids], [ids, ids]])

    def request(self):
        rng = self.rng
        request = {"prompt": self.prompt()}
        if rng.random() < 0.5:
            request = {"invokes": [{"prompt": self.prompt()} for _ in range(rng.randrange(1, 4))]}
        if rng.random() < 0.5:
            request["set"] = {rng.choice(PATHS): self.rng.choice([0.0, 1, "hook_embed[0]"])}
        if rng.random() < 0.5:
            request["max_new_tokens"] = rng.randrange(4)
            request["sampling"] = {"temperature": rng.choice([0, 0.7]), "seed": rng.randrange(9)}
        request["nodes"] = [self.node() for _ in range(rng.randrange(6))]
        if rng.random() < 0.5:
            request["save"] = {"last": self.expression()}
        return request


def spoil(rng, value):
    """Changes one thing somewhere inside."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = rng.choice(keys)
        inside = value[key]
        if isinstance(inside, dict | list) and inside and rng.random() < 0.8:
            value = inside
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            del value[key]
            value[rng.choice([key + "x", key[1:], "op", "node", "tensor", "caf\u00e9"])] = inside
        else:
            value[key] = rng.choice(WRONG)
        return


def plain(value):
    """The same for JSON, where bytes are base64."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def answers(bodies):
    """What the C code says to each (media, bytes)."""
    sent = b"".join(media + struct.pack("=i", len(body)) + body for media, body in bodies)
    done = subprocess.run([TOOL], input=sent, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(found) == len(bodies)
    return found


def in_both(requests):
    """Pairs of answers; those to what msgpack cannot say are left out."""
    bodies = []
    for request in requests:
        bodies.append((b"j", json.dumps(plain(request)).encode()))
        bodies.append((b"m", msgpack.packb(request)))
    found = answers(bodies)
    return list(zip(requests, found[::2], found[1::2], strict=True))


def essence(answer):
    """A graph whole, an error without the sentence where a library wrote it."""
    if isinstance(answer, dict) and answer["error"]["code"] == "syntax":
        return {**answer["error"], "message": ""}
    return answer


def check_same(requests):
    pairs = in_both(requests)
    for request, from_json, from_msgpack in pairs:
        assert essence(from_json) == essence(from_msgpack), request
    return [from_json for _, from_json, _ in pairs]


def test_valid_requests_mean_the_same_in_both_encodings():
    found = check_same([Maker(seed).request() for seed in range(3000)])
    refused = [answer for answer in found if isinstance(answer, dict)]
    assert not refused, refused[:3]


def test_spoilt_requests_are_refused_for_the_same_reason():
    requests = []
    for seed in range(10000):
        request = Maker(seed).request()
        rng = random.Random(-seed)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            spoil(rng, request)
        requests.append(request)
    found = check_same(requests)
    codes = {answer["error"]["code"] for answer in found if isinstance(answer, dict)}
    assert codes >= {"syntax", "unknown", "order", "type", "value", "shape"}
    for answer in found:
        if isinstance(answer, dict):
            error = answer["error"]
            assert error["message"] and "\n" not in error["message"]
            assert error["code"] not in ("internal", "none")


def test_the_cases_mean_the_same_in_both_encodings():
    requests = []
    for case in CASES:
        try:
            requests.append(json.loads(case.read_bytes()))
        except ValueError:
            continue  # not JSON: nothing to translate
    assert requests
    check_same([request for request in requests if isinstance(request, dict)])


def test_order_of_sets_and_saves_is_the_body_s():
    paths = [f"transformer.h.{block}.output[0]" for block in (7, 3, 11, 0, 5)]
    request = {"prompt": [1], "set": {path: 0.0 for path in paths},
               "save": {f"x{i}": path for i, path in enumerate(paths)}}
    (graph,) = check_same([request])
    blocks = [node[6] for node in graph[7] if node[0] == "hook"]
    assert blocks == [7, 3, 11, 0, 5] * 2


@pytest.mark.parametrize("number", [0.1, -0.0, 1e-45, 3.4028235e38, 16777217.0, 5e-324, 1e300])
def test_floats_keep_their_bits(number):
    (graph,) = check_same([{"prompt": [1], "nodes": [{"op": "neg", "args": [number]}]}])
    assert graph[7][0][8][0][1] == number


def random_bytes(rng, good):
    """Bytes that were a request once."""
    data = bytearray(good)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        kind = rng.randrange(3)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 4)]
        else:
            data[at:at] = rng.choice([b"\xc1", b"\xdd\xff\xff\xff\xff", b"{", b"[", b'"', b"\xff"])
        data = data or bytearray(b"{")
    return bytes(data)


def test_broken_bytes_are_answered():
    bodies = []
    for seed in range(4000):
        rng = random.Random(seed)
        request = Maker(seed).request()
        bodies.append((b"j", random_bytes(rng, json.dumps(plain(request)).encode())))
        bodies.append((b"m", random_bytes(rng, msgpack.packb(request))))
    for answer in answers(bodies):
        if isinstance(answer, dict):
            assert answer["error"]["message"]


def test_every_size_of_msgpack_s_types_is_read():
    """fixtext to text 32, fixlist to list 32, bin 8 to bin 32, float 32: nothing is refused for
    the length of its length."""
    bodies = []
    for size in (1, 31, 32, 255, 256, 65535, 65536):
        bodies.append({"prompt": "x" * size})
        bodies.append({"prompt": [7] * size})
        bodies.append({"prompt": [1], "nodes": [{"op": "neg", "args": [
            {"tensor": bytes(size), "dtype": "bool", "shape": [size]}]}]})
    packed = [(b"m", msgpack.packb(body, use_single_float=True)) for body in bodies]
    packed.append((b"m", msgpack.packb({"prompt": [1], "sampling": {"temperature": 0.5}},
                                       use_single_float=True)))
    for answer in answers(packed):
        assert isinstance(answer, list), answer
    assert answers(packed)[-1][2] == 0.5
