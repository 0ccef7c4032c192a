"""The Python client against a live server: what it posts for each construct of Python, what every
operator and method gives beside torch's, and how each thing that cannot work is refused."""
import copy
import doctest
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import pickle
import pkgutil
import re
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import msgpack
import numpy as np
import pytest

import interpose
from interpose import LanguageModel, NoValue, RequestError, ServerError
from interpose.client import Client
from interpose.frames import frames_of
from interpose.values import array_of

PROMPT = "The Eiffel Tower is in the city of"
IDS = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def name(server):
    return json.loads(server.get("/v1/models")[1])["models"][0]["name"]


@pytest.fixture(scope="module")
def model(server, name):
    return LanguageModel(name, host=server.host)


@pytest.fixture
def posted(model, monkeypatch):
    """The bodies of the runs that a test makes."""
    bodies, stream = [], model.client.stream

    def spy(path, body):
        bodies.append(body)
        return stream(path, body)
    monkeypatch.setattr(model.client, "stream", spy)
    return bodies


# The table that is shipped.

def test_the_ops_that_are_shipped_are_the_server_s(model):
    """After a change of ops.def, with a server running:
    curl -s http://127.0.0.1:8000/v1/spec | jq --indent 1 .ops > clients/python/interpose/ops.json
    """
    shipped = json.loads((pathlib.Path(interpose.__file__).parent / "ops.json").read_text())
    assert shipped == model.client.document("/v1/spec")["ops"]


def test_every_op_is_a_function_and_a_method(model):
    with model.trace(IDS):
        x = interpose.tensor([1.0, 2.0])
        for op in model.spec.ops.values():
            if op.kind != "effect" and op.name != "getitem":
                assert callable(getattr(interpose, op.name)), op.name
                assert callable(getattr(x, op.name)), op.name
                assert op.name in dir(x)


# What is posted.

EVERY = {"slice": [None, None, None]}

POSTED = [   # the body of a `with model.trace(IDS):`, and the nodes that it makes
    ("x = model.transformer.h[-1].output[0].save()",
     [("hook", "transformer.h.{last}.output[0]"), ("save", 0)]),
    ("value = model.transformer.h[0].attn.value.output\nvalue[:, 7, :, :] = 0.",
     [("hook", "transformer.h.0.attn.value.output"), ("getitem", 0, [EVERY, 7, EVERY, EVERY]),
      ("set", 1, 0.0)]),
    ("model.transformer.h[2].input[0][0][:, -1].save()",
     [("hook", "transformer.h.2.input"), ("getitem", 0, [EVERY, -1]), ("save", 1)]),
    ("model.transformer.h[2].input[:, -1].save()",      # nnsight 0.3's
     [("hook", "transformer.h.2.input"), ("getitem", 0, [EVERY, -1]), ("save", 1)]),
    ("(model.transformer.h[2].input + 1).save()",
     [("hook", "transformer.h.2.input"), ("add", 0, 1), ("save", 1)]),
    ("model.transformer.h[2].inputs[0][0].save()",
     [("hook", "transformer.h.2.input"), ("save", 0)]),
    ("model.transformer.h[1].mlp.output = 0.5",
     [("hook", "transformer.h.1.mlp.output"), ("set", 0, 0.5)]),
    ("model.transformer.h[1].mlp.output += 1",
     [("hook", "transformer.h.1.mlp.output"), ("add", 0, 1), ("set", 0, 1, True)]),
    ("model.transformer.h[1].output[0] += 1",
     [("hook", "transformer.h.1.output[0]"), ("add", 0, 1), ("set", 0, 1, True)]),
    ("model.transformer.h[1].output[0][:] *= 2",
     [("hook", "transformer.h.1.output[0]"), ("getitem", 0, [EVERY]), ("mul", 1, 2),
      ("set", 1, 2, True)]),
    ("model.transformer.h[1].output[0] = 3",
     [("hook", "transformer.h.1.output[0]"), ("set", 0, 3)]),
    ("model.transformer.h[1].output = (model.transformer.h[1].mlp.output, )"
     " + model.transformer.h[1].output[1:]",
     [("hook", "transformer.h.1.mlp.output"), ("hook", "transformer.h.1.output[0]"),
      ("set", 1, 0)]),
    ("model.transformer.h[1].input = model.transformer.h[1].input * 2",
     [("hook", "transformer.h.1.input"), ("mul", 0, 2), ("set", 0, 1)]),
    ("model.transformer.h[1].input[0][0] = 4",
     [("hook", "transformer.h.1.input"), ("set", 0, 4)]),
    ("model.transformer.h[1].input = ((5,), {})",
     [("hook", "transformer.h.1.input"), ("set", 0, 5)]),
    ("model.blocks[1].hook_resid_post = 0.5",
     [("hook", "blocks.1.hook_resid_post"), ("set", 0, 0.5)]),
    ("model.blocks[-1].attn.hook_z.save()",
     [("hook", "blocks.{last}.attn.hook_z"), ("save", 0)]),
    ("model.lm_head(model.transformer.ln_f(model.transformer.h[0].output[0])).save()",
     [("hook", "transformer.h.0.output[0]"), ("apply", 0, "transformer.ln_f"),
      ("apply", 1, "lm_head"), ("save", 2)]),
    ("model.transformer.h[0].output; model.lm_head.output.save()",   # what nobody uses is not sent
     [("hook", "lm_head.output"), ("save", 0)]),
    ("model.lm_head.output.max(dim=-1).values.save()",
     [("hook", "lm_head.output"), ("max", 0, -1), ("save", 1)]),
    ("model.lm_head.output[:, [1, -2]] = 0",
     [("hook", "lm_head.output"), ("getitem", 0, [EVERY, 1]), ("set", 1, 0),
      ("getitem", 0, [EVERY, -2]), ("set", 3, 0)]),
    # `old` is the tensor that was there: the module has another one then.
    ("old = model.transformer.h[1].mlp.output\nmodel.transformer.h[1].mlp.output = old * 2\n"
     "(model.transformer.h[1].mlp.output - old).save()",
     [("hook", "transformer.h.1.mlp.output"), ("mul", 0, 2), ("clone", 0), ("set", 0, 1),
      ("hook", "transformer.h.1.mlp.output"), ("sub", 4, 2), ("save", 5)]),
]


def as_posted(nodes, last):
    """The short form of POSTED as the wire has it: integers behind the op are nodes, but for the
    second argument of ops with a number, which the table writes as it is."""
    def form(op, place, arg):
        if op == "hook":
            return arg.format(last=last)
        is_node = isinstance(arg, int) and (place == 0 or (op, place) in {("sub", 1)})
        return {"node": arg} if is_node else arg
    return [{"op": op, "args": [form(op, i, a) for i, a in enumerate(args)]}
            for op, *args in nodes]


@pytest.mark.parametrize("code, nodes", POSTED, ids=[code for code, _ in POSTED])
def test_what_is_posted(model, posted, code, nodes):
    with model.trace(IDS):
        exec(code, {"model": model})
    if "value[:, 7, :, :]" in code:     # needs a model of eight heads: see the tutorial
        assert model.config.n_heads > 7
    got = [{"op": n["op"], "args": n["args"]} for n in posted[0]["nodes"]]
    expected = as_posted(nodes, model.config.n_blocks - 1)
    for g, e in zip(got, expected):     # `set` of a node, and not of a number
        if g["op"] == "set" and isinstance(g["args"][1], dict):
            e["args"][1] = {"node": e["args"][1]}
    assert got == expected
    assert posted[0]["invokes"] == [{"prompt": IDS}] and posted[0]["max_new_tokens"] == 0


def test_invokes_and_steps_are_posted(model, posted):
    with model.generate(max_new_tokens=3, temperature=0.5, top_k=5, top_p=0.9, seed=7) as run:
        with run.invoke("Hello"):
            model.lm_head.output.save()
            model.lm_head.next().output.save()
            model.lm_head.next().output.save()
        with run.invoke(["Hello", "Hello"]):
            model.lm_head.step(-1).output.save()
            model.transformer.h[0].step(1).attn.output[0].save()
            model.lm_head.output.save()
    hooks = [n for n in posted[0]["nodes"] if n["op"] == "hook"]
    assert [(n["invoke"], n["step"]) for n in hooks] == [
        (0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    assert posted[0]["sampling"] == {
        "temperature": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0,
        "seed": 7, "n": 1}
    assert posted[0]["invokes"] == [{"prompt": "Hello"}, {"prompt": ["Hello", "Hello"]}]


def test_next_moves_a_module_for_the_rest_of_its_invoke(model, posted):
    with model.generate(IDS, max_new_tokens=4):
        model.transformer.h[0].next()
        model.transformer.h[0].output[0].save()
        model.transformer.h[0].attn.output[0].save()
        model.transformer.h[0].next(2, propagate=True)
        model.transformer.h[0].attn.output[0].save()
        model.next(2)
        model.lm_head.output.save()
        model.transformer.h[0].mlp.output.save()
    steps = {n["args"][0] + f"@{n['step']}" for n in posted[0]["nodes"] if n["op"] == "hook"}
    assert steps == {"transformer.h.0.output[0]@1", "transformer.h.0.attn.output[0]@0",
                     "transformer.h.0.attn.output[0]@3", "lm_head.output@2",
                     "transformer.h.0.mlp.output@2"}


class Column(list):
    """As pandas has it: with keys, as a dict has."""

    def keys(self):
        return range(len(self))

    def to_numpy(self):
        return np.array(list(self))


PROMPTS = [
    ("a text", "a text"),
    (["a", "b"], ["a", "b"]),
    (("a", "b"), ["a", "b"]),
    ([1, 2], [1, 2]),
    ((1, 2), [1, 2]),
    ([np.int64(1), np.int32(2)], [1, 2]),
    ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    (np.array([1, 2]), [1, 2]),
    (np.array([[1, 2], [3, 4]], np.uint16), [[1, 2], [3, 4]]),
    ([np.array([1, 2]), np.array([3, 4])], [[1, 2], [3, 4]]),
    ({"input_ids": [1, 2]}, [1, 2]),
    ({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}, [[1, 2]]),
    ({"input_ids": np.array([[1, 2]]), "attention_mask": np.array([[1, 1]])}, [[1, 2]]),
    ({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]}, [[1, 2], [3]]),
    ({"input_ids": np.array([[0, 0, 1], [2, 3, 4]]),
      "attention_mask": np.array([[0, 0, 1], [1, 1, 1]])},
     [[1], [2, 3, 4]]),
    ({"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}, [1, 2]),
    ([[1, 2], [3]], [[1, 2], [3]]),
    (np.array(["a", "bc"]), ["a", "bc"]),
    (np.array([[1, 2], [3]], object), [[1, 2], [3]]),
    (Column(["a", "b"]), ["a", "b"]),
    (Column([1, 2]), [1, 2]),
]


@pytest.mark.parametrize("prompt, wire", PROMPTS, ids=repr)
def test_prompts(prompt, wire):
    assert interpose.prompt.prompt_of(prompt) == wire


def test_prompts_of_torch():
    torch = pytest.importorskip("torch")
    assert interpose.prompt.prompt_of(torch.tensor([1, 2])) == [1, 2]
    assert interpose.prompt.prompt_of(torch.tensor([[1, 2]])) == [[1, 2]]
    encoding = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2)}
    assert interpose.prompt.prompt_of(encoding) == [[1, 2]]


@pytest.mark.parametrize("prompt", [3, 1.5, [1.5], [True], [[1], "a"], [["a"]], {"x": 1},
                                    np.zeros((1, 1, 1), int), object(),
                                    np.array(["a", None]), np.array([["a"]])], ids=repr)
def test_what_is_no_prompt(prompt):
    with pytest.raises(TypeError):
        interpose.prompt.prompt_of(prompt)


def test_a_text_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match="a prompt is no text"):
        interpose.prompt.prompt_of("\ud800")


def test_a_mask_that_hides_tokens_is_refused():
    with pytest.raises(ValueError, match="attention_mask hides tokens between others: only padding"):
        interpose.prompt.prompt_of({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]})
    with pytest.raises(ValueError, match=r"attention_mask has the shape \(1,\), input_ids \(2,\)"):
        interpose.prompt.prompt_of({"input_ids": [1, 2], "attention_mask": [1]})
    with pytest.raises(ValueError, match="attention_mask and input_ids are of different prompts"):
        interpose.prompt.prompt_of({"input_ids": [[1], [2]], "attention_mask": [[1]]})


def test_prompts_of_unequal_length_and_a_beginning(model):
    texts = ["The Eiffel Tower is in the city of", "Hello there"]
    with model.trace() as tracer:
        with tracer.invoke(texts, add_bos=True) as invoker:
            before = [tokens.tolist() for tokens in invoker.tokens]
            place = invoker.positions("Hello", prompt=1)
            x = model.transformer.h[1].output[0].save()
        with tracer.invoke(texts[1], add_bos=True):
            alone = model.transformer.h[1].output[0].save()
    bos = model.tokenizer.encode("<|endoftext|>")
    assert before == [bos + model.tokenizer.encode(text) for text in texts]
    assert before == [tokens.tolist() for tokens in invoker.tokens]
    n = len(before[1])
    assert place == list(range(len(before[0]) - n + 1, len(before[0]) - n + 1 + len(place)))
    assert x.value[1, -n:].tobytes() == alone.value[0].tobytes() and not x.value[1, :-n].any()
    with pytest.raises(RequestError, match="add_bos is for texts: token ids are taken as they are"):
        with model.trace([1, 2], add_bos=True):
            model.lm_head.output.save()


# Operators and methods beside torch's.

random = np.random.default_rng(0)
TENSORS = {
    "x": random.standard_normal((2, 3, 4)).astype(np.float32),
    "y": random.standard_normal((3, 4)).astype(np.float32),
    "v": random.standard_normal(4).astype(np.float32),
    "one": np.array([2.5], np.float32),
    "p": random.uniform(0.5, 2, (2, 3)).astype(np.float32),
    "i": random.integers(-5, 6, (2, 3)),
    "j": random.integers(1, 5, (2, 3)),
    "k": random.integers(0, 9, (3,)),
    "b": random.integers(0, 2, (2, 3)).astype(bool),
    "c": random.integers(0, 2, (2, 3)).astype(bool),
    "scalar": np.array(3.0, np.float32),
    "m": random.standard_normal((4, 5)).astype(np.float32),
    "special": np.array([0.0, -0.0, 1.0, -1.5, 2.5, np.inf, -np.inf, np.nan], np.float32),
}

EXPRESSIONS = """
x + y; x - v; x * one; x / y; y + 1; 1 + y; y - 2.5; 2.5 - y; 3 * y; y * 3; y / 2; 2 / y; -x; +x; abs(x)
p // 0.5; 3 // p; p % 0.7; 2 % p; p ** 2; 2 ** p; p ** p; i // j; i % j; j ** 2; 2 ** j; i // 2; -7 // j
i + j; i - j; i * j; i / j; i + 1; i + 1.5; 1.5 - i; i * True; x + 1; b + i; b * 2; b + 0.5; b + c; b * c
x < y; x <= 0; x > y; x >= 0.5; i == j; i != j; 0 < x; i == 1.0; b == c; x == x
b & c; b | c; b ^ c; ~b; i & j; i | j; i ^ j; ~i; b & True; i & 3; 3 | i
y @ m; x @ m; x @ y.T; v @ m; y @ v; x @ m @ m.T; x @ x.transpose(1, 2); v @ v
x.sum(); x.sum(dim=-1); x.sum(dim=(0, 2)); x.sum(dim=[1], keepdim=True); x.sum(0); i.sum(); b.sum(); i.sum(dim=1)
x.mean(); x.mean(-1); x.mean(dim=(0, 1), keepdim=True); x.max(); x.min(); i.max(); x.amax(dim=(0, 1)); x.amin(-1)
x.max(dim=-1).values; x.max(dim=-1).indices; x.max(dim=1, keepdim=True)[0]; x.min(0)[1]; x.max(-1)[1]; y.max(x[0])
x.argmax(); x.argmax(dim=-1); x.argmin(dim=0, keepdim=True); x.norm(); x.norm(dim=-1); x.norm(2, -1); x.norm(dim=(0, 1))
x.softmax(-1); x.softmax(dim=1); x.log_softmax(dim=-1); x.logsumexp(-1); x.logsumexp((0, 1), keepdim=True); x.logsumexp(dim=0)
i.logsumexp(0); x.logsumexp(-1, True); x.topk(2).values; x.topk(2).indices; x.topk(3, dim=1, largest=False)[0]; x.topk(2, 1, largest=False).indices; special.topk(4)[0]; i.topk(2, -1, True, False)[0]
x.gather(-1, abs(i)[:, None].long()[:, :, :1] % 4); x.gather(dim=1, index=x.argmax(1, keepdim=True)); x.index_select(1, torch.tensor([2, 0, 0])); i.index_select(0, j.flatten()[:2] % 2); x[:, [1] * 5, 2]
x.var(); x.std(-1); x.var(dim=(0, 2)); x.var(dim=0, unbiased=False); x.std(dim=-1, keepdim=True)
x.exp(); p.log(); p.sqrt(); p.rsqrt(); x.reciprocal(); x.tanh(); x.sigmoid(); x.relu(); x.sin(); x.cos(); x.square()
x.floor(); x.ceil(); x.round(); x.sign(); special[:-1].sign(); special.round(); special.isnan(); special.isinf(); special.exp()
special.relu(); special.maximum(one); special == special; special.floor(); special.logical_not(); special * 0; special.bool()
i.sign(); i.abs(); i.square(); b.sign(); i.exp(); b.exp(); i.tanh(); b.logical_not(); i.logical_not(); i.relu()
x.maximum(y); x.minimum(v); i.maximum(j); b.maximum(c); x.logical_and(y); i.logical_or(b)
x.add(y); x.sub(1); x.mul(y); x.div(y); x.subtract(y); x.multiply(2); x.true_divide(2); p.pow(3); i.remainder(j); i.floor_divide(j)
x.eq(y); x.ne(y); x.lt(y); x.le(y); x.gt(y); x.ge(y); x.greater(y); i.bitwise_and(j); i.bitwise_or(j); i.bitwise_xor(j); i.bitwise_not()
x.clamp(-0.5, 0.5); x.clamp(min=0); x.clip(max=0); i.clamp(1, 3); x.where(x > 0, 0.0); x.masked_fill(x > 0, 7.0); x.masked_fill(x > 0, float("-inf"))
x[0]; x[-1]; x[:, 1]; x[..., 1]; x[:, :, ::2]; x[0, 1, 2]; x[None]; x[:, None, 1]; x[..., None]; x[1:2]; x[:, -2:]; x[()]; x[5:]
x[[0, 1]]; x[:, [0, 2]]; x[..., [1, -1]]; x[:, [2, 0, 1], 1:3]; x[0, :, [1, 2]]; x[[1], None]; x[:, np.array([0, 1])]
x[[0, 1], [1, 2]]; x[0, [0, 1, 2], [3, 0, -1]]; x[:, [0, 2], [1, 1]]; x[..., [0, 2], [1, 1]]; x[:, [0, 0], 1:3]; x[range(2), [0, 1], 2]
x.transpose(0, 1); x.transpose(-1, -2); x.swapaxes(0, 2); x.permute(2, 0, 1); x.permute((1, 0, 2)); y.T; x.mT; y.t(); v.t()
x.reshape(6, 4); x.reshape((2, -1)); x.reshape(-1); x.view(3, 8); x.view(-1, 2); x.transpose(0, 1).reshape(-1); x.flatten(); x.flatten(1); x.flatten(0, 1)
x.unsqueeze(0); x.unsqueeze(-1); x[:, :1].squeeze(1); x[:1].squeeze(); x.squeeze(); v.expand(3, 4); v.expand(2, -1); y[:, None].expand(3, 2, 4); v.expand_as(y)
x.clone(); x.detach(); x.cpu(); x.contiguous(); x.to(torch.int64); x.to("cpu"); x.to("cpu", torch.bool); x.long(); x.bool(); i.float(); b.float(); b.long(); x.type_as(i)
x.split(2, dim=-1)[1]; x.split(3, -1)[1]; x.split([1, 3], dim=2)[1]; x.chunk(2, dim=1)[1]; x.chunk(3, -1)[1]; x.unbind(1)[2]
torch.exp(x); torch.softmax(x, dim=-1); torch.nn.functional.softmax(x, dim=-1); torch.nn.functional.relu(x); torch.log_softmax(x, -1); torch.sum(x, dim=1)
torch.cat([x, x], dim=1); torch.cat((x, y[None])); torch.stack([y, y], dim=-1); torch.stack([i, j]); torch.cat([i, j.float()]); torch.where(x > 0, x, y); torch.where(x > 0, 0.0, x)
torch.maximum(x, y); torch.matmul(x, m); torch.bmm(x, x.mT); torch.mm(y, m); torch.max(x); torch.max(x, dim=1).values; torch.mean(x, dim=-1, keepdim=True); torch.norm(x, dim=-1)
torch.nn.functional.gelu(x, approximate="tanh"); torch.sigmoid(x); torch.abs(x); torch.clamp(x, 0, 1); torch.argmax(x, dim=-1); torch.permute(x, (0, 2, 1)); torch.transpose(x, 0, 1)
torch.zeros_like(x); torch.ones_like(i); torch.full_like(x, 2.0); torch.reshape(x, (4, 6)); torch.flatten(x); torch.unsqueeze(x, 0); torch.logsumexp(x, -1); torch.isnan(special)
len(x) + x; x.shape[-1] * y; x.ndim + y; x.size(1) + y; x.numel() + y; sum(row for row in y); x.dim() + y
""".replace("\n", ";").split(";")
EXPRESSIONS = [e.strip() for e in EXPRESSIONS if e.strip()]


def near(got, expected, what):
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6, err_msg=what)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression(model, expression):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array) for name, array in TENSORS.items()}
    expected = eval(expression, {"torch": torch, "np": np, **tensors}).numpy()
    with model.trace(IDS):
        proxies = {name: interpose.tensor(array) for name, array in TENSORS.items()}
        result = eval(expression, {"torch": torch, "np": np, **proxies})
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        result = result.save()
    near(result.value, expected, expression)


EQUATIONS = """
ij,jk->ik y,m; ij,jk->ki y,m; bij,bij-> x,x; bij->bi x; bij->ji x; bij,ij->b x,y; bij,ij->bij x,y; bij,j->ib x,v
bij,jk->bik x,m; i,j->ij v,one; bij,cij->bc x,x; bij,ij,jk->bk x,y,m; ij,kj->ik y,y; bij,bkj->bik x,x; bij,ik->bj x,y; ij->ij y; i,i-> v,v
""".replace("\n", ";").split(";")
EQUATIONS = [e.strip() for e in EQUATIONS if e.strip()]


@pytest.mark.parametrize("case", EQUATIONS)
def test_einsum(model, case):
    torch = pytest.importorskip("torch")
    equation, _, names = case.rpartition(" ")
    expected = torch.einsum(equation, *(torch.tensor(TENSORS[n]) for n in names.split(","))).numpy()
    with model.trace(IDS):
        operands = [interpose.tensor(TENSORS[n]) for n in names.split(",")]
        first, *others = names.split(",")
        results = [interpose.einsum(equation, *operands), torch.einsum(equation, *operands),
                   np.einsum(equation, operands[0], *(TENSORS[n] for n in others))]
        results = [r.save() for r in results]
    for result in results:
        np.testing.assert_allclose(result.value, expected, rtol=1e-5, atol=1e-5)
        assert result.value.shape == expected.shape


def test_einsum_needs_a_proxy(model):
    with pytest.raises(TypeError, match="einsum needs a proxy among its tensors"):
        interpose.einsum("ij->ji", TENSORS["y"])


# Arrays and torch tensors on either side of an operator, and numpy's functions.
MIXED = """
a + x; x + a; a - x; a * x; a / x; a ** 2 + x; a < x; a @ m; x @ w; n - x; x + n
np.exp(x); np.add(x, a); np.sum(x, axis=-1); np.mean(x, axis=(0, 1), keepdims=True); np.max(x, axis=-1); np.maximum(x, 0); np.abs(x)
np.concatenate([x, a], axis=1); np.stack([x, a]); np.where(x > 0, x, a); np.transpose(x); np.transpose(x, (1, 0, 2)); np.reshape(x, (4, 6))
np.matmul(x, m); np.argmax(x, axis=-1); np.expand_dims(x, 0); np.swapaxes(x, 0, 1); np.sqrt(np.square(x)); np.clip(x, 0, 1); np.negative(x)
np.repeat(x, 2, axis=1); np.repeat(m, 2); np.tile(m, 2); np.tile(x, (2, 1, 1)); np.roll(x, 1, axis=0); np.roll(m, 3); np.flip(x, axis=1); np.moveaxis(x, 0, -1)
np.split(x, 3, axis=1)[1]; np.array_split(m, 3, axis=1)[0]; np.vstack([m, m[:1]]); np.hstack([m, m]); np.tril(m); np.diag(m); np.trace(m[:4, :4]); np.outer(m[0], m[1]); np.broadcast_to(m, (2, 4, 5))
np.take_along_axis(x, np.argmax(x, axis=-1)[..., None], axis=-1); np.tensordot(x, m, 1); np.inner(x, m.T); np.atleast_2d(m[0]); np.column_stack([m[:, 0], m]); x[:, [0, 2]]; x[..., np.array([True, False, True, True])]
np.linalg.norm(x); np.linalg.norm(x, axis=-1); np.squeeze(x[:1], axis=0); np.float32(2) * x; x * np.float32(2); np.isnan(x); np.tanh(x)
np.var(x); np.std(x, axis=-1); np.std(x, axis=0, ddof=1); np.sort(x, axis=0); np.any(x > 1, axis=0); np.all(x < 9); np.cumsum(x, axis=1); np.prod(x, axis=-1)
np.fmod(x, a); np.trunc(x); np.isfinite(x); np.nan_to_num(x); np.logical_xor(x > 0, a > 0); np.left_shift(x.argmax(-1), 2); np.divide(1, x); np.log1p(np.abs(x))
np.dot(m[0], m[1]); np.dot(x, m); np.shape(x)[1] * x; np.ndim(x) + x; np.around(x, 1); np.vdot(m[0], m[1]); np.array_equal(x, x); np.cov(m).astype(np.float32); np.corrcoef(m).astype(np.float32); np.nansum(x, axis=0); np.sinh(x)
np.dot(n, m); np.dot(w.T, x[0].T); np.dot(x[0, 0], w); np.dot(m.T, a[0].T)
""".replace("\n", ";").split(";")
MIXED = [e.strip() for e in MIXED if e.strip()]


@pytest.mark.parametrize("expression", MIXED)
def test_expression_with_arrays(model, expression):
    facts = {"a": TENSORS["x"][::-1] + 0.25, "w": TENSORS["m"], "n": np.float32(1.5), "np": np}
    arrays = {name: TENSORS[name] for name in ("x", "m")}
    expected = eval(expression, {**facts, **arrays})
    with model.trace(IDS):
        proxies = {name: interpose.tensor(array) for name, array in arrays.items()}
        result = eval(expression, {**facts, **proxies}).save()
    near(result.value, np.asarray(expected), expression)


@pytest.mark.parametrize("expression", ["t + x", "x + t", "t - x", "t * x", "t / x", "t < x", "t @ x",
                                        "x @ t", "t % x", "torch.cat([t, x])", "torch.where(t > 0, t, x)",
                                        "t[x[0, 0].long() * 0 + 1]", "t[0, x[0].argmax(-1)]", "t[:, x[0, 0, 0].long()]",
                                        "torch.nn.functional.relu(x, inplace=True)",
                                        "(torch.nn.ReLU(inplace=True)(x), x)[1]"])
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")    # torch's, where it sees len()
def test_expression_with_torch_tensors(model, expression):
    torch = pytest.importorskip("torch")
    t, x = torch.tensor(TENSORS["x"][:, :, :3]), torch.tensor(TENSORS["x"][:, :, 1:])
    expected = eval(expression, {"t": t, "x": x, "torch": torch}).numpy()
    with model.trace(IDS):
        result = eval(expression, {"t": t, "x": interpose.tensor(x), "torch": torch}).save()
    near(result.value, expected, expression)


FUNCTIONS = """
softmax(x, dim=-1); softmax(x, -1); cat([x, x], dim=1); cat((x, x)); stack([x, y + x]); where(x > 0, x, 0.0); maximum(0.0, x)
max(x); max(x, dim=-1).values; sum(x, dim=(0, 1)); mean(x, axis=-1, keepdims=True); matmul(x, m); exp(x); transpose(x, 0, 1)
permute(x, (2, 0, 1)); permute(x, dims=(2, 0, 1)); reshape(x, (-1,)); norm(x, dim=-1); to(x, "int64"); add(1, x); add(x, other=y); expand(v, (3, 4)); clone(x)
log_softmax(x, dim=0); argmax(x, dim=-1); pow(x, 2); unsqueeze(x, 0); squeeze(x[:1], 0); flatten(x, 1); gelu_new(x) * 0; zeros_like(x); ones_like(x); full_like(x, 3.0)
""".replace("\n", ";").split(";")
FUNCTIONS = [e.strip() for e in FUNCTIONS if e.strip()]


@pytest.mark.parametrize("expression", FUNCTIONS)
def test_function(model, expression):
    torch = pytest.importorskip("torch")
    names = {name: getattr(torch, name) for name in vars(interpose) if hasattr(torch, name)}
    tensors = {name: torch.tensor(array) for name, array in TENSORS.items()}
    names.update(to=lambda x, dtype: x.long(), gelu_new=lambda x: x,
                 maximum=lambda x, y: torch.clamp(y, min=x),
                 expand=lambda x, shape: x.expand(shape))
    expected = eval(expression, {**names, **tensors}).numpy()
    with model.trace(IDS):
        proxies = {name: interpose.tensor(array) for name, array in TENSORS.items()}
        result = eval(expression, {**vars(interpose), **proxies}).save()
    near(result.value, expected, expression)


PROGRAMS = """
x += 1
x -= y
x *= 2.5
x /= y
p //= 0.5; x = p
p %= 0.5; x = p
p **= 2; x = p
b &= c; x = b
b |= c; x = b
b ^= c; x = b
x[:, 1] = 0
x[:, 1] += 5
x[..., 1:3] *= y[:, 1:3]
x[0] = y
x[0, 1, 2] = 7.5
x[:, [0, 2]] = 0
x[:, [0, 2]] = y[:2]
x[[1]] = y
x[..., [3, 0]] = y[:, :2]
x[:, [0, 2]] += 1
x[[0, 1], [2, 0]] = 0
x[[0, 1], [2, 0]] = y[:2]
x[:, [0, 2], [1, 3]] = v[:2]
x[..., [0, 2], [1, 3]] += 2
x[:, [1], 2:] = v[:2]
x[x > 0] = 0
x[x < y] = -1.0
x[b] = 9.0
x[:] = v
x.transpose(0, 2)[1] = 4
x.view(6, 4)[2:4] = v
x.permute(2, 0, 1)[0, :, 1] += 10
x.flatten()[5:7] = -3
x.unsqueeze(1)[:, 0, 0] = 2
x.squeeze()[1] = 2
x.mT[..., 2] = 1
x.add_(1)
x.mul_(y).sub_(2)
x.zero_()
x.fill_(3)
x.copy_(y)
x.clamp_(-0.5, 0.5)
x.relu_()
x.masked_fill_(x > 0, 5.0)
z = x[0]; z += 1; z[1] = 0
z = x; z[:] = 0
z = x.clone(); z[:] = 0
z = x * 1; z[:] = 0
z = x[:, 1]; x[:, 1] = 3; x = z
a, d = x.split(2, -1); a += d
i += 1; x = i
i[:, 1] = 2.75; x = i
i //= j; x = i
b[:, 0] = True; x = b
x[0] = x[1]
x = y; x[0] = x[1]; x[1] = x[0]
x[:, 0], x[:, 1] = x[:, 1] + 0, x[:, 0] + 0
""".strip().split("\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(model, program):
    """Sets and in-place operators, aliases and views, as torch has them."""
    torch = pytest.importorskip("torch")
    expected = {"torch": torch, **{name: torch.tensor(a) for name, a in TENSORS.items()}}
    exec(program, expected)
    with model.trace(IDS):
        result = {"torch": torch, **{name: interpose.tensor(a) for name, a in TENSORS.items()}}
        exec(program, result)
        saved = {name: result[name].save() for name in ("x", "y")}
    for name, proxy in saved.items():
        near(proxy.value, expected[name].numpy(), program)


CONSTANTS = [(1, "int64"), (True, "bool"), (1.5, "float32"), (float("nan"), "float32"),
             (float("inf"), "float32"), (np.float64(2), "float32"), (np.int8(3), "int64"),
             (np.bool_(True), "bool"), ([1, 2], "int64"), ([[1.5], [2]], "float32"),
             (np.arange(3, dtype=np.uint8), "int64"), (np.ones(2, np.float16), "float32"),
             (np.ones((2, 0)), "float32"), (np.array(7), "int64"), (2**63 - 1, "int64"),
             (np.arange(6.0).reshape(2, 3).T, "float32")]


@pytest.mark.parametrize("data, dtype", CONSTANTS, ids=repr)
def test_constants(model, data, dtype):
    with model.trace(IDS):
        x = interpose.tensor(data).save()
    assert x.value.dtype == dtype
    np.testing.assert_array_equal(x.value, np.asarray(data).astype(dtype))


def test_torch_constants(model):
    torch = pytest.importorskip("torch")
    with model.trace(IDS):
        saved = [interpose.tensor(torch.tensor([1.5, 2]).to(dtype)).save()
                 for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int32)]
        saved.append(interpose.tensor(torch.ones(2, requires_grad=True)).save())
    assert [s.value.tolist() for s in saved] == [[1.5, 2]] * 3 + [[1, 2]] + [[1, 1]]
    assert saved[0].torch().dtype == torch.float32


def test_a_constant_is_what_it_was_when_it_was_written(model):
    array = np.ones(2, np.float32)
    with model.trace(IDS):
        x = (interpose.tensor([1.0, 1.0]) + array).save()
        array[:] = 100
    assert x.value.tolist() == [2, 2]


def test_an_array_travels_once(model, posted):
    """However often it is used; equal bytes of another shape or dtype are another array."""
    array, same = np.arange(6.0), np.arange(6.0, dtype=np.float32)
    with model.trace(IDS):
        x = interpose.tensor(array)
        y = (x + array + same + interpose.stack([x, same])).save()
        z = (x.reshape(2, 3) * same.reshape(2, 3)).save()
        w = interpose.reshape(array, (3, 2))    # a view of its own
        w[0] = 0
        w, v = w.save(), (array - x).save()
    nodes = posted[0]["nodes"]
    assert [n["op"] for n in nodes].count("constant") == 1 and nodes[0]["op"] == "constant"
    inline = [a for n in nodes[1:] for a in n["args"] if isinstance(a, dict) and "tensor" in a]
    assert [a["shape"] for a in inline] == [[2, 3]]
    assert y.value.tolist() == [(4 * array).tolist()] * 2
    assert z.value.tolist() == (array**2).reshape(2, 3).tolist()
    assert w.value.tolist() == [[0, 0], [2, 3], [4, 5]] and not v.value.any()


# Values, shapes, the model.

def test_shapes_before_running(model):
    width, heads = model.config.width, model.config.n_heads
    with model.trace(IDS):
        assert model.transformer.h[-1].output.shape == (
            (1, 4, width), ((1, heads, 4, width // heads),) * 2)
        assert model.transformer.h[0].input.shape == (1, 4, width)
        assert model.transformer.h[0].input[0][0].shape == (1, 4, width)
        assert model.lm_head.output[:, -1].argmax(-1).shape == (1,)
        assert model.lm_head.output.dtype == np.float32
        assert len(model.lm_head.output[0]) == 4


def test_one_plan_serves_all_nodes_so_far(model, monkeypatch):
    """And the next one those that are new, with what they are made of."""
    asked, ask = [], model.client.ask
    monkeypatch.setattr(model.client, "ask", lambda path, body: asked.append(
        (path, [node["op"] for node in body["nodes"]])) or ask(path, body))
    with model.trace(IDS):
        x = model.lm_head.output
        y, z = x.softmax(-1), x.exp()
        assert y.shape == x.shape and x.ndim == 3 and z.size(1) == 4
        assert asked == [("/v1/plan", ["hook", "softmax", "exp"])]
        assert (z * 2).shape == y.shape
        assert asked[1:] == [("/v1/plan", ["hook", "exp", "mul"])]


def test_a_save_is_a_copy_of_its_moment(model):
    with model.trace(IDS):
        x = model.transformer.h[0].mlp.output
        before = x.save()
        x[:] = 0
        after = x.save()
        clone = model.transformer.h[1].mlp.output.clone().save()
    assert before.value.any() and not after.value.any() and clone.value.any()
    assert not x.value.any()    # the latest


def test_a_replaced_output_leaves_the_old_tensor_to_its_names(model):
    with model.trace(IDS):
        old = model.transformer.h[1].mlp.output
        row = old[:, 1]
        model.transformer.h[1].mlp.output = old * 2
        new = model.transformer.h[1].mlp.output.save()
        old, row = old.save(), row.save()
    np.testing.assert_array_equal(new.value, 2 * old.value)
    np.testing.assert_array_equal(row.value, old.value[:, 1])


def test_values_can_be_written_to_and_are_torch_s_too(model):
    with model.trace(IDS):
        x = model.transformer.wte.output.save()
    x.value[:] = 0
    assert not x.value.any() and type(x.value) is np.ndarray
    torch = pytest.importorskip("torch")
    assert x.torch().shape == x.shape and isinstance(x.torch(), torch.Tensor)


def test_a_finished_proxy_serves_as_its_value(model):
    with model.trace(IDS):
        x = model.transformer.wte.output.save()
        top = model.lm_head.output[0, -1].argmax().save()
        mean = x.mean().save()
    assert np.asarray(x).shape == x.shape
    assert top.item() == int(top) == int(top.value) and float(mean) == float(mean.value)
    assert bool((top >= 0) if False else True) and list(range(100000))[top] == int(top)
    assert x.tolist() == x.value.tolist()
    assert f"{top} {top:d}" == "%s %s" % (top, str(top)) == f"{int(top)} {int(top)}"
    assert str(x) == str(x.value)


def test_the_model_is_a_tree(model):
    assert len(model.transformer.h) == model.config.n_blocks == model.config.n_layer
    assert len(list(model.transformer.h)) == len(model.transformer.h[:]) == model.config.n_layer
    assert len(model.transformer.h[1:3]) == 2
    drawn = str(model)
    for line in ("attn", ".output", "value", "lm_head", "blocks 0 to"):
        assert line in drawn
    assert "attn" in repr(model.transformer.h[0])
    assert {"attn", "mlp", "output", "input", "next"} <= set(dir(model.transformer.h[0]))
    assert "transformer" in dir(model)


def test_a_module_is_not_set(model):
    with model.trace(IDS):
        with pytest.raises(AttributeError) as caught:
            model.transformer.h[0].mlp = model.transformer.h[1].mlp.output
    assert str(caught.value) == ("transformer.h.0.mlp is a module: set its output, or replace it by "
                                 ".mlp.skip(value)")


def test_what_a_run_gave_is_a_prompt(model):
    with model.generate(IDS, max_new_tokens=2) as run:
        pass
    with model.trace(run.output):
        x = model.lm_head.output.save()
    assert x.shape[:2] == (1, len(IDS) + 2)


def test_proxies_tell_what_they_are(model):
    with model.trace(IDS):
        x = model.transformer.wte.output[:, 1, ..., ::2]
        assert repr(x) == "<proxy of transformer.wte.output[:, 1, ..., ::2]>"
        y = (x * 2.0).save()
        assert repr(y) == "<proxy of mul(transformer.wte.output[:, 1, ..., ::2], 2.0)>"
    assert repr(y).startswith("<proxy of mul(transformer.wte.output[:, 1, ..., ::2], 2.0) = array(")


def test_outputs_of_several_sequences_and_invokes(model):
    with model.generate(max_new_tokens=2) as run:
        with run.invoke(PROMPT) as first:
            a = model.transformer.wte.output.save()
        with run.invoke([[1, 2, 3], [4, 5, 6]]) as second:
            b = model.transformer.wte.output.save()
        output = run.output.save()
    assert [len(t) for t in output] == [len(first.tokens[0]) + 2, 5, 5]
    assert [list(t) for t in second.tokens] == [[1, 2, 3], [4, 5, 6]]
    assert run.output[1][:3].tolist() == [1, 2, 3] and output.value[0].dtype == np.int64
    assert a.value.shape[:2] == (1, len(first.tokens[0])) and b.value.shape[:2] == (2, 3)
    assert set(run.timing) >= {"queue", "run"} and run.request_id


def test_tokens_are_known_inside_the_block(model):
    with model.trace(["Hello there", "Hello there"]) as tracer:
        inside = tracer.tokens
        model.lm_head.output.save()
    assert [t.tolist() for t in inside] == [t.tolist() for t in tracer.tokens]


def test_the_generated_ids_are_a_hook_too(model):
    with model.generate(IDS, max_new_tokens=3) as run:
        ids = model.generator.output.save()
    assert ids.value.tolist() == [run.output[0].tolist()]


def test_sampling_is_seeded(model):
    def ids(seed):
        with model.generate(IDS, max_new_tokens=8, temperature=1.5, seed=seed) as run:
            pass
        return run.output[0].tolist()
    assert ids(1) == ids(1)
    assert len({tuple(ids(seed)) for seed in range(5)}) > 1


def test_steps_of_a_generation(model):
    with model.generate(PROMPT, max_new_tokens=3) as run:
        tops = [model.lm_head.step(k).output[0, -1].argmax().save() for k in range(3)]
        second = model.transformer.wte.step(1).input.save()
    assert [int(t) for t in tops] == run.output[0][-3:].tolist()
    assert second.value.tolist() == [[int(tops[0])]]


def test_invokes_can_use_each_other_s_values(model):
    with model.trace() as tracer:
        with tracer.invoke([1, 2, 3, 4]):
            clean = model.transformer.h[0].mlp.output[:, -1]
            logits = model.lm_head.output.save()
        with tracer.invoke([9, 8, 7]):
            model.transformer.h[0].mlp.output[:, -1] = clean
            patched = model.transformer.h[0].mlp.output.save()
    assert patched.value.shape[1] == 3 and logits.value.shape[1] == 4


def test_runs_from_several_threads(model):
    results = {}

    def work(k):
        for _ in range(5):
            with model.trace([k, k + 1, k + 2]):
                x = model.transformer.wte.input.save()
                y = (interpose.tensor([1.0]) * k).save()
            results.setdefault(k, []).append((x.value.tolist(), y.value.tolist()))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [([[k, k + 1, k + 2]], [float(k)])] * 5 for k in range(8)}


def scaled(model, k):
    with model.trace([1, 2, 3]):
        model.transformer.h[0].mlp.output[:] *= float(k)
        logits = model.lm_head.output[0, -1].save()
    return logits.value.tobytes()


inherited = []      # the model of a forked process, which is not pickled


def scaled_of_inherited(k):
    return scaled(inherited[-1], k)


def refused_of_inherited():
    with inherited[-1].trace([1, 2, 3]):
        (inherited[-1].lm_head.output * np.ones(7)).save()


def test_forked_processes_read_their_own_replies(model):
    wanted = [scaled(model, k) for k in range(4)]   # and a connection stays open behind it
    model.client._lock.acquire()    # as another thread might at the moment of the fork
    try:
        pool = multiprocessing.get_context("fork").Pool(4, inherited.append, (model,))
    finally:
        model.client._lock.release()
    with pool:
        for _ in range(10):
            assert pool.map_async(scaled_of_inherited, range(4), chunksize=1).get(60) == wanted
        with pytest.raises(RequestError, match="mul of") as refused:
            pool.apply_async(refused_of_inherited).get(60)
    assert refused.value.code == "shape" and refused.value.filename == __file__
    assert "inherited[-1].lm_head.output * np.ones(7)" in str(refused.value)


def test_a_copied_or_pickled_model_is_another_of_the_same(model):
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert scaled(other, 2) == scaled(model, 2)
        assert other.tokenizer.decode([5]) == model.tokenizer.decode([5])
        assert other.transformer is not model.transformer


def test_the_name_may_be_a_repository_s(server, name):
    assert LanguageModel(f"somebody/{name}", host=server.host).server_name == name


def test_the_host_may_come_from_the_environment(server, name, monkeypatch):
    monkeypatch.setenv("INTERPOSE_HOST", server.host.partition("://")[2])
    assert LanguageModel(name).config.name == name


# The tokenizer and the loss.

def test_the_tokenizer(model):
    t = model.tokenizer
    ids = t.encode(PROMPT)
    assert t.decode(ids) == t.decode(np.array(ids)) == t.decode(tuple(ids)) == PROMPT
    assert t.decode(ids[0]) == t.decode(np.int64(ids[0])) == t.tokenize(PROMPT)[0]
    assert t.decode([ids, ids]) == [PROMPT] * 2 == t.batch_decode(np.array([ids, ids]))
    assert t.encode([PROMPT, "Hello", PROMPT]) == [ids, t.encode("Hello"), ids]
    assert "".join(t.tokenize(PROMPT)) == PROMPT
    assert t(PROMPT) == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert t([PROMPT])["input_ids"] == [ids]
    assert t.encode([]) == [] and t.decode([]) == ""
    with pytest.raises(RequestError):
        t.decode(10**6)
    with pytest.raises(TypeError, match="a text or a list of texts is needed, not 3"):
        t.encode(3)
    with pytest.raises(TypeError, match="the tokenizer has no parameter 'return_offsets_mapping'"):
        t(PROMPT, return_offsets_mapping=True)


def test_the_tokenizer_asks_once(model, monkeypatch):
    ids = model.tokenizer.encode("asked once")
    model.tokenizer.decode(ids)
    monkeypatch.setattr(model.client, "ask", None)
    assert model.tokenizer.encode("asked once") == ids
    ids.append(0)   # the caller's own list
    assert model.tokenizer.encode("asked once") == ids[:-1]
    assert model.tokenizer.decode(ids[:-1]) == "asked once"


def test_cross_entropy_loss_is_torch_s():
    torch = pytest.importorskip("torch")
    logits = random.standard_normal((6, 11)).astype(np.float32) * 5
    tokens = random.integers(0, 11, 6)
    def theirs(a, b):
        return torch.nn.functional.cross_entropy(torch.tensor(a), torch.tensor(b)).item()
    ours = interpose.cross_entropy_loss(logits, tokens)
    assert ours == pytest.approx(theirs(logits[:-1], tokens[1:]), rel=1e-6)
    assert type(ours) is float
    assert ours == interpose.cross_entropy_loss(logits[None], tokens[None].tolist(), shift=True)
    assert ours == interpose.cross_entropy_loss(torch.tensor(logits), torch.tensor(tokens))
    assert interpose.cross_entropy_loss(logits, tokens, shift=False) == pytest.approx(
        theirs(logits, tokens), rel=1e-6)
    for bad in [(logits, tokens[:-1]), (logits[0], tokens), (logits[:1], tokens[:1]),
                (logits, tokens + 11), (logits, tokens * 1.0)]:
        with pytest.raises(ValueError):
            interpose.cross_entropy_loss(*bad)


def test_cross_entropy_loss_of_proxies_is_one_number_and_the_same(model):
    ids = [IDS, IDS[::-1]]
    with model.trace(ids) as run:
        logits, tokens = model.lm_head.output, model.transformer.wte.input
        saved = logits.save()
        losses = [interpose.cross_entropy_loss(x, y, shift).save() for x, y, shift in [
            (logits, tokens, True), (logits, np.array(ids), False), (logits[0], IDS, True),
            (logits[1:], np.array(IDS[::-1], np.int32), True), (logits[:1], tokens[:1], True)]]
        with pytest.raises(ValueError, match="not .*and"):
            interpose.cross_entropy_loss(logits, IDS)
        with pytest.raises(ValueError, match="no position"):
            interpose.cross_entropy_loss(logits[:, :1], tokens[:, :1])
        with pytest.raises(ValueError, match="must be integers"):
            interpose.cross_entropy_loss(logits, tokens.float())
    one, two = (interpose.cross_entropy_loss(saved.value[i], ids[i]) for i in range(2))
    unshifted = [interpose.cross_entropy_loss(saved.value[i], ids[i], False) for i in range(2)]
    expected = [(one + two) / 2, sum(unshifted) / 2, one, two, one]
    assert [float(x) for x in losses] == pytest.approx(expected, rel=1e-6)
    assert run.output is not None and losses[0].value.shape == ()
    with model.trace([IDS, IDS[:-1], IDS[1:]]):
        logits, tokens = model.lm_head.output, model.transformer.wte.input
        with pytest.raises(ValueError, match=r"^the prompts differ in length \(3, 4 tokens\), and their padding would count: write "):
            interpose.cross_entropy_loss(logits, tokens)
        last, row = (interpose.cross_entropy_loss(*x).save() for x in (
            (logits[:, -3:], tokens[:, -3:]), (logits[0], tokens[0, :])))
    assert float(row) == pytest.approx(one, rel=1e-6) and float(last) > 0


def test_a_token_outside_the_vocabulary_of_a_proxy_is_refused(model):
    with pytest.raises(interpose.RequestError, match="gather: the index at .* is 10000000, which"):
        with model.trace(IDS):
            interpose.cross_entropy_loss(model.lm_head.output, [10**7] * len(IDS)).save()
    with pytest.raises(interpose.RequestError, match="10000000, which the graph computed") as refused:
        with model.trace(IDS):
            tokens = model.transformer.wte.input * 0 + 10**7
            interpose.cross_entropy_loss(model.lm_head.output, tokens).save()
    assert refused.value.code == "index"


# Refusals at the user's line.

REFUSED = [   # code inside `with model.trace(IDS):`, the exception, its sentence
    ("model.transformer.h[{n}].output", IndexError,
     "transformer.h.{n} does not exist: this model has blocks 0 to {last}"),
    ("model.transformer.h[-{n} - 1].output", IndexError,
     "transformer.h.-{n1} does not exist: this model has blocks 0 to {last}"),
    ("model.transformer.h[0].atn", AttributeError,
     "transformer.h.0 has no 'atn': did you mean attn?"),
    ("model.transfomer", AttributeError, "the model has no 'transfomer': did you mean transformer?"),
    ("model.transformer.h[0].mlp.outptu = 0", AttributeError,
     "transformer.h.0.mlp has no 'outptu': did you mean output?"),
    ("if model.lm_head.output.sum() > 0: pass", NoValue,
     "`if` (and `and`, `or`, `not`, bool()) needs a value now, and nothing has run yet: save "
     "gt(sum(lm_head.output), 0) and use its .value behind the block, or choose by it there: "
     "`with tracer.cond(x):`, x.where(...), &, |, ~"),
    ("float(model.lm_head.output.sum())", NoValue,
     "float() needs a value now, and nothing has run yet: save sum(lm_head.output) and use its "
     ".value behind the block"),
    ("np.array(model.lm_head.output)", NoValue,
     "a numpy array needs a value now, and nothing has run yet: save lm_head.output and use its "
     ".value behind the block"),
    ("import torch\ntorch.tensor(model.lm_head.output)", NoValue,
     "a tensor of torch's own needs a value now, and nothing has run yet: save lm_head.output and use "
     "its .value behind the block, or leave torch.tensor out, for torch's functions take it as it is"),
    ("import torch\ntorch.tensor([model.lm_head.output.sum()])", TypeError,
     "sum(lm_head.output) has no dimensions, and so no length: torch.stack makes one tensor of several"),
    ("import torch\nt = torch.zeros(3).long()\nt[0] = model.lm_head.output.sum()", TypeError,
     "setitem is not offered on proxies: only a tensor of floats takes values of a run, when that has ended: set "
     "them in interpose.zeros(...), or join several by torch.stack"),
    ("import torch\nt = torch.zeros(3)\nt[0] = model.lm_head.output[0]", ValueError,
     "a value of (4, 4096) does not fit into your tensor's part of ()"),
    ("import torch\ntorch.linalg.svd(model.lm_head.output[0])", TypeError,
     "linalg_svd is not offered on proxies: save the tensor and decompose its .value; of a parameter it "
     "works outside of runs"),
    ("import torch\ntorch.multinomial(model.lm_head.output[0, -1].softmax(-1), 1)", TypeError,
     "multinomial is not offered on proxies: random numbers are interpose.rand and randn with a seed; "
     "(x.log() - interpose.rand_like(x, seed=1).log().neg().log()).argmax(-1) draws by the probabilities x"),
    ("model.lm_head.output.register_hook(print)", AttributeError,
     "register_hook is not offered: a server computes no gradients"),
    ("model.transformer.h[0].mlp.input[0].save()", AttributeError, "input[0] holds the module's arguments, of "
     "which there is one: its tensor is input[0][0], or input alone, and has the save"),
    ("model.transformer.h[0].mlp.input[0][-1]", TypeError, "input[0] holds the module's arguments, of which there "
     "is one: its tensor is input[0][0], or input alone; the tensor's first row is input[0, ...]"),
    ("model.transformer.h[0].mlp.input[0] * 2", TypeError, "input[0] holds the module's arguments, of which there "
     "is one: its tensor is input[0][0], or input alone"),
    ("model.output.hidden_states", AttributeError, "the model's output has logits and past_key_values, and no "
     "'hidden_states': take each block's output[0]"),
    ("model.output.cross_attentions", AttributeError,
     "the model's output has logits and past_key_values, and no 'cross_attentions'"),
    ("model.inputs", AttributeError, "the model has no 'inputs': the prompt's ids are tracer.inputs, and in a run "
     "model.transformer.wte.input"),
    ("model.lm_head.output.detach().cpu().numpy()", NoValue, "numpy() needs a value now, and nothing has run "
     "yet: save lm_head.output and use its .value behind the block"),
    ("model.lm_head.output.save().value", NoValue,
     "lm_head.output has no value: it arrives when the `with` block of the run ends"),
    ("model.lm_head.output.value", NoValue,
     "lm_head.output was not saved: call .save() inside the block"),
    ("0 in model.lm_head.output", TypeError,
     "`in` needs a value now: save the tensor and look in its .value"),
    ("model.transformer.h[0].output + 1", TypeError,
     "transformer.h.0.output is a tuple of 2: its tensor is transformer.h.0.output[0]"),
    ("model.transformer.h[0].output[:, 1]", TypeError,
     "transformer.h.0.output is a tuple of 2: its tensor is transformer.h.0.output[0]"),
    ("model.transformer.h[0].output.mean()", AttributeError,
     "transformer.h.0.output is a tuple of 2: its tensor is transformer.h.0.output[0].mean"),
    ("interpose.exp(model.transformer.h[0].output)", TypeError,
     "transformer.h.0.output is a tuple of 2: its tensor is transformer.h.0.output[0]"),
    ("model.transformer.h[0].output[1] = 0", TypeError,
     "transformer.h.0.output[1] is a tuple: set its tensors one by one"),
    ("model.lm_head.output + 'a'", TypeError,
     "a tensor, an array or a number is needed here, not 'a'"),
    ("model.lm_head.output + None", TypeError,
     "a tensor, an array or a number is needed here, not None"),
    ("model.lm_head.output.expp()", AttributeError, "a proxy has no 'expp': did you mean exp, exp2, expm1?"),
    ("model.lm_head.output.transpose(0)", TypeError, "transpose(x, dim0, dim1) needs 'dim1'"),
    ("model.lm_head.output.exp(3)", TypeError, "exp(x) takes 1 arguments: 2 are given"),
    ("model.lm_head.output.argmax(dim=-1, foo=1)", TypeError,
     "argmax(x, dim=..., keepdim=...) has no parameter 'foo'"),
    ("model.lm_head.output.softmax()", TypeError, "softmax(x, dim) needs 'dim'"),
    ("model.lm_head.output.argmax(1.5)", TypeError, "argmax: dim must be an integer: it is 1.5"),
    ("model.lm_head.output.max(dim=(0, 1))", TypeError,
     "max over several dimensions has no indices: use amax"),
    ("model.lm_head.output.norm('nuc')", ValueError,
     "norm: p is a number or 'fro': not 'nuc'"),
    ("import torch\ntorch.linalg.norm(model.lm_head.output[0], 2)", ValueError,
     "norm: of a matrix only the Frobenius norm is offered, not 2: for the norm of its elements use "
     "vector_norm"),
    ("model.lm_head.output.nonzero()", AttributeError,
     "nonzero is not offered: the shape of its result depends on values, and every shape is known "
     "before a run; take where(mask, x, y), or argmax and topk for a known number of places"),
    *[(f"import torch\n{call}(model.lm_head.output > 0)", TypeError,
       "nonzero is not offered: the shape of its result depends on values, and every shape is known "
       "before a run; take where(mask, x, y), or argmax and topk for a known number of places")
      for call in ("torch.where", "np.where", "interpose.where")],
    ("import torch\nx = model.lm_head.output\ntorch.masked_select(x, x > 0)", TypeError,
     "masked_select is not offered: the shape of its result depends on values, and every shape is "
     "known before a run; take where(mask, x, y), which keeps the shape"),
    ("np.unique(model.lm_head.output)", TypeError,
     "unique is not offered: the shape of its result depends on values, and every shape is known "
     "before a run; save the tensor and use numpy.unique on its value"),
    ("model.lm_head.output.sum_()", AttributeError, "a proxy has no 'sum_': did you mean {near}?"),
    ("np.median(model.lm_head.output)", TypeError,
     "numpy.median is not offered on proxies: torch.median gives the lower of two in the middle"),
    ("model.lm_head.output.halve().x", AttributeError, "a proxy has no 'halve': did you mean {near}?"),
    ("model.lm_head.output.to('int8')", TypeError,
     "int8 is not offered: a server's tensors are float32, int64 or bool"),
    ("model.lm_head.output.half() + 1", TypeError,
     "add of float16 is not offered: it is a dtype of results. Save it, or convert it with .float() "
     "or .long() first"),
    ("model.lm_head.output.double().sum()", TypeError,
     "sum of float64 is not offered: it is a dtype of results. Save it, or convert it with .float() "
     "or .long() first"),
    ("import torch\ntorch.exp(model.lm_head.output.bfloat16())", TypeError,
     "exp of bfloat16 is not offered: it is a dtype of results. Save it, or convert it with .float() "
     "or .long() first"),
    ("model.lm_head.output.argmax(-1) + model.lm_head.output.argmax(-1).int()", TypeError,
     "an op of int32 is not offered: it is a dtype of results. Save it, or convert it with .float() "
     "or .long() first"),
    ("model.lm_head.output[1.5]", TypeError, "an index must be an integer: it is 1.5"),
    ("model.lm_head.output['a']", TypeError, "an index must be an integer: it is 'a'"),
    ("model.lm_head.output[True]", TypeError, "an index must be an integer: it is True"),
    ("model.lm_head.output[[0, 0], [0, 1, 2]]", IndexError, "the indices cannot be broadcast "
     "together: (2,), (3,)"),
    ("model.lm_head.output[[0, 1], [1]]", IndexError, "index 1 is out of range for dimension 0 of "
     "size 1"),
    ("model.lm_head.output[2**64]", OverflowError,
     "an index must fit into int64: it is 18446744073709551616"),
    ("model.lm_head.output[:, [0, 1]] = np.ones((3, 1))", IndexError, "a value of shape (3, 1) "
     "cannot be written to (1, 2, 4096)"),
    ("x = model.lm_head.output; x[x > 0].save()", IndexError, "x[mask] has a shape that depends on "
     "values, and the mask is not known before the run: take where(mask, x, y); x[mask] = number "
     "works"),
    ("model.generator(3)", TypeError,
     "generator cannot be applied: the modules that can are lm_head, transformer.drop, "
     "transformer.h.*, transformer.h.*.attn, transformer.h.*.attn.c_attn, "
     "transformer.h.*.attn.c_proj, transformer.h.*.ln_1, transformer.h.*.ln_2, "
     "transformer.h.*.mlp, transformer.h.*.mlp.act, transformer.h.*.mlp.c_fc, "
     "transformer.h.*.mlp.c_proj, transformer.ln_f, transformer.wpe, transformer.wte"),
    ("model.lm_head.step(1)", IndexError,
     "step 1 does not exist: this run has steps 0 to 0 (max_new_tokens=0)"),
    ("model.lm_head.next().output", IndexError,
     "lm_head has no next step: this run has steps 0 to 0 (max_new_tokens=0)"),
    ("np.fft.fft(model.lm_head.output)", TypeError,
     "fft is not offered on proxies: save the tensor and use it on its .value, or write it with "
     "the ops of interpose"),
    ("np.add.reduce(model.lm_head.output)", TypeError,
     "numpy.add.reduce is not offered on proxies"),
    ("model.lm_head.output + other", ValueError,
     "transformer.wte.output is of another run: save it there and use its .value here"),
    ("other[:] = 0", RuntimeError,
     "this run's block has ended, and nothing can be added to it: call .save() inside the block on "
     "what is wanted here, or open another run"),
    ("interpose.tensor('a')", TypeError, "a tensor, an array or a number is needed here, not 'a'"),
    ("interpose.tensor(2**63)", OverflowError, "9223372036854775808 does not fit into int64"),
    ("interpose.tensor(np.array(['a']))", TypeError,
     "an array of <U1 cannot be sent: only floats, integers and booleans can"),
    ("tracer.invoke(IDS)", RuntimeError,
     "this run has its prompt from trace(prompt) or generate(prompt): leave it out there to use "
     "invoke(prompt)"),
    ("tracer.__enter__()", RuntimeError,
     "a run can be entered once: open another with model.trace(...)"),
    ("import pickle; pickle.dumps(model.lm_head.output)", TypeError,
     "a proxy cannot be copied or pickled: it belongs to one run"),
    ("model.lm_head.output.__dict__", AttributeError, "__dict__"),
    ("model.trace(IDS, labels=False)", TypeError,
     "trace() has no parameter 'labels': write interpose.cross_entropy_loss(model.lm_head.output, "
     "model.transformer.wte.input)"),
    ("model.trace(IDS, top_k=1)", TypeError,
     "trace() has no parameter 'top_k': it takes a prompt, add_bos and progress"),
    ("model.generate(IDS, num_beams=2)", TypeError,
     "generate() has no parameter 'num_beams': it takes max_new_tokens, min_new_tokens, do_sample, "
     "temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, eos_token_id, ignore_eos, "
     "num_return_sequences, add_bos and progress"),
    ("model.generate(IDS, stop_at_eos=False)", TypeError,
     "generate() has no parameter 'stop_at_eos': write ignore_eos=True for none to end at the end token"),
    ("model.trace(IDS, output_attentions=True)", TypeError,
     "trace() has no parameter 'output_attentions': save what is wanted inside the block"),
    ("model.generate(max_length=9)", ValueError, "max_length counts the prompt's tokens too, and the prompt "
     "is not known here: write max_new_tokens"),
    ("model.generate([1, 2, 3], max_length=3)", ValueError,
     "max_length=3 counts the prompt's tokens too, which are 3: write max_new_tokens"),
    ("model.parameters()", AttributeError, "the model has no 'parameters': a server keeps the weights: read "
     "one as model.W_E or model.transformer.wte.weight; print(model) shows all"),
    ("model.half()", AttributeError, "the model has no 'half': the model computes in its server's numbers; "
     "x.half() converts a result"),
    ("model.generate(IDS, stop=[2.5])", TypeError, "a stop token must be an integer: it is 2.5"),
]


@pytest.mark.parametrize("code, kind, sentence", REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_at_once(model, code, kind, sentence):
    with model.trace(IDS):
        other = model.transformer.wte.output
    n = model.config.n_blocks
    facts = {"n": n, "n1": n + 1, "last": n - 1}
    code = code.replace("{n}", str(n))
    run = model.trace(IDS)
    with pytest.raises(kind) as refused:
        with run:
            exec(code, {"model": model, "np": np, "interpose": interpose, "other": other,
                        "tracer": run, "IDS": IDS})
    text = str(refused.value)
    if "{near}" in sentence:
        assert text.startswith(sentence.partition(":")[0])
    else:
        for fact, value in facts.items():
            sentence = sentence.replace(f"{{{fact}}}", str(value))
        assert text == sentence
    assert type(refused.value) is kind


SERVER_REFUSES = [  # the code, of which line `#!` is the culprit, and the server's code
    ("x = model.lm_head.output\ny = x + np.ones(3)  #!\nz = (y * 2).save()", "shape"),
    ("v = model.transformer.h[0].attn.value.output\nv[:, 99] = 0.  #!\nv.save()", "index"),
    ("late = model.transformer.h[1].mlp.output\n"
     "model.transformer.h[0].mlp.output = late * 0  #!\n", "order"),
    ("ids = model.transformer.wte.input\nids[:] = 0  #!", None),
    ("model.lm_head.output.bitwise_not()  #!", "type"),
    ("model.lm_head.output.reshape(7, 7).save()  #!", "shape"),
    ("for i in range(2):\n    model.lm_head.output[i]  #!", "index"),
    ("model.lm_head.output[:, 0:0] = 3  #!", "shape"),
    ("model.lm_head.output[0, 99]  #!\nmodel.lm_head.output.save()", "index"),
    ("import torch\ntorch.nn.functional.softmax(model.lm_head.output, dim=5)  #!", "index"),
    ("x = model.lm_head.output.sum(dim=4)\nx.shape  #!", "index"),
]


@pytest.mark.parametrize("code, error", SERVER_REFUSES, ids=[r[0] for r in SERVER_REFUSES])
def test_a_refusal_names_the_user_s_line(model, tmp_path, code, error):
    if "torch" in code:
        pytest.importorskip("torch")
    lines = code.split("\n")
    script = tmp_path / "notebook.py"
    body = textwrap.indent(code, "    ")
    script.write_text(f"with model.trace(IDS):\n{body}\n")
    with pytest.raises(RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"),
             {"model": model, "np": np, "IDS": IDS})
    e = refused.value
    culprit = next(i for i, line in enumerate(lines) if "#!" in line)
    if "x.shape" in code:
        culprit -= 1    # where the sum was written
    assert e.code == error or error is None
    assert (e.filename, e.lineno) == (str(script), culprit + 2)
    assert str(e) == f'{e.message} ({e.code})\n  File "{script}", line {culprit + 2}: ' \
        + lines[culprit].strip()
    assert e.path.startswith("nodes[") and e.request_id
    last = e.__traceback__
    while last.tb_next:
        last = last.tb_next
    assert (last.tb_frame.f_code.co_filename, last.tb_lineno) == (str(script), culprit + 2)
    assert last.tb_lasti > 0    # a debugger looks for the instruction, and would look for ever
    shown = "".join(traceback.format_exception(type(e), e, e.__traceback__))
    assert "During handling" not in shown


def test_an_autoencoder_travels_where_bodies_may_be_large(server, start_server):
    rng = np.random.default_rng(0)
    width = 256
    encoder, decoder = (rng.standard_normal(shape, dtype=np.float32) / 100
                        for shape in ((width, 9 * 2**18 // width), (9 * 2**18 // width, width)))

    def run(host):
        model = LanguageModel("demo", host)
        with model.trace(IDS):
            x = model.transformer.h[1].output[0].save()
            y = ((x @ encoder).relu() @ decoder).save()
        return x.value, y.value

    with pytest.raises(RequestError) as refused:
        run(server.host)
    assert re.fullmatch(
        r"the body has 188\d{5} bytes, at most 16777216 are read \(--body-mb\); its largest tensor, "
        rf"float32 \({width}, {encoder.shape[1]}\), has 9437184 of them", refused.value.message)
    assert str(refused.value).endswith("y = ((x @ encoder).relu() @ decoder).save()")
    with start_server("--body-mb", "18") as s, pytest.raises(RequestError):
        run(s.host)
    with start_server("--body-mb", "19") as s:
        x, y = run(s.host)
    assert np.allclose(y, np.maximum(x @ encoder, 0) @ decoder, atol=1e-5)


def test_a_refusal_that_is_caught_spoils_nothing_else(model, posted, monkeypatch):
    """What is refused at a shape is left out, unless something that is wanted is made of it."""
    says, planned, ask = r"^matmul of \(1, 4, \d+\) and \(3, 3\)", [], model.client.ask
    monkeypatch.setattr(model.client, "ask", lambda path, body: planned.append(
        [node["op"] for node in body["nodes"]]) or ask(path, body))

    def tried(h):
        product = h @ np.ones((3, 3))
        more = product + 1
        more[0] = 0.
        for _ in range(2):
            with pytest.raises(RequestError, match=says) as refused:
                more.shape
            assert "product = h @ np.ones((3, 3))" in str(refused.value)
        return more
    with model.trace(IDS):
        h = model.transformer.h[0].mlp.output
        tried(h)
        assert (h * 2).shape == h.shape
        good = (h * 3).save()
    assert planned == [["hook", "matmul", "add", "getitem", "set"], ["hook", "mul"]]
    assert good.value.any() and [node["op"] for node in posted[-1]["nodes"]] == [
        "hook", "mul", "mul", "save"]
    with pytest.raises(RequestError, match=says), model.trace(IDS):
        tried(model.transformer.h[0].mlp.output).save()
    with pytest.raises(RequestError, match=says), model.trace(IDS):
        h = model.transformer.h[0].mlp.output
        h[:] = tried(h)
    with pytest.raises(RequestError, match="does not fit the target"), model.trace(IDS):
        h = model.transformer.h[0].mlp.output
        h[:] = np.ones((3, 3))
        with pytest.raises(RequestError, match="does not fit the target"):
            h.shape
    with model.scan(IDS):
        y = tried(model.transformer.h[0].mlp.output)
    with pytest.raises(RequestError, match=says):
        y.shape
    # What is written once and run often.
    _, cache = model.run_with_cache([IDS], fwd_hooks=[("mlp_out1", lambda x: (tried(x), x * 2)[1])])
    assert (cache["mlp_out", 1] == 2 * model.run_with_cache([IDS])[1]["mlp_out", 1]).all()
    with model.edit(IDS) as edited:
        tried(model.transformer.h[0].mlp.output)
    with edited.trace(IDS):
        good = (edited.transformer.h[0].mlp.output * 3).save()
    assert good.shape == (1, 4, model.config.width)


def test_a_refused_prompt_names_its_line(model, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("with model.trace() as t:\n    with t.invoke([1]): model.lm_head.output.save()\n"
                      "    with t.invoke([10**6]): model.lm_head.output.save()\n")
    with pytest.raises(RequestError) as refused:
        exec(compile(script.read_text(), str(script), "exec"), {"model": model})
    assert refused.value.lineno == 3, str(refused.value)


def test_an_exception_in_the_block_runs_nothing(model, posted):
    with pytest.raises(ZeroDivisionError):
        with model.trace(IDS):
            x = model.lm_head.output.save()
            1 / 0
    assert posted == []
    with pytest.raises(NoValue, match="an exception ended the block, so nothing was run"):
        x.value
    with model.trace(IDS):     # and the next run is not inside it
        y = model.lm_head.output.save()
    assert y.value.any()


def test_what_needs_a_run_says_so(model):
    with pytest.raises(RuntimeError, match="there is no run here: write it inside"):
        model.lm_head.output
    with pytest.raises(RuntimeError, match="there is no run here: write it inside"):
        interpose.tensor(3)
    with pytest.raises(RuntimeError, match="lm_head belongs to a prompt: use it inside"):
        with model.trace():
            model.lm_head.output
    with pytest.raises(ValueError, match="this run has no prompt"):
        with model.trace():
            pass
    with pytest.raises(RuntimeError, match="another invoke of this run is open"):
        with model.trace() as tracer, tracer.invoke(IDS), tracer.invoke(IDS):
            pass
    with pytest.raises(TypeError, match=r"invoke\(\) has no parameter 'labels'"):
        with model.trace() as tracer, tracer.invoke(IDS, labels=3):
            pass
    with pytest.raises(NoValue, match="the generated tokens have no value: it arrives when"):
        with model.generate(IDS) as run:
            len(run.output)


# The server that is not there, or broken.

def test_no_server():
    model = LanguageModel("demo", host="http://127.0.0.1:1")
    with pytest.raises(ServerError, match="no server at http://127.0.0.1:1: start one with `make "
                                          "run` or set INTERPOSE_HOST"):
        model.config
    with pytest.raises(ServerError, match="is no address of a server"):
        LanguageModel("demo", host="ftp://a b").config


def test_another_model(server, name):
    with pytest.raises(RequestError, match=f"has no model 'gpt5': it has {name}"):
        LanguageModel("gpt5", host=server.host).config


class Pretender:
    """A server that answers everything with the bytes it was given, first with those of `before`."""

    def __init__(self, status, headers, body, before=()):
        import http.server
        replies = itertools.chain(before, itertools.repeat((status, headers, body)))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.server.headers = self.headers
                self.server.n_requests += 1
                status, headers, body = next(replies)
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
            do_GET = do_POST

            def log_message(self, *args):
                pass
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.server.n_requests = 0
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.host = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


def packed(*frames):
    return b"".join(map(msgpack.packb, frames))


def test_another_protocol():
    body = b'{"model": 1}'
    with Pretender(200, {"Content-Type": "application/json"}, body) as fake:
        with pytest.raises(ServerError, match="speaks another version of the protocol"):
            LanguageModel("demo", host=fake.host).spec
    body = b'{"models": [{"name": "demo"}]}'
    with Pretender(200, {"Content-Type": "application/json"}, body) as fake:
        with pytest.raises(ServerError, match="its tables have no 'ops'"):
            LanguageModel("demo", host=fake.host).spec


@pytest.mark.parametrize("frames, sentence", [
    ([{"type": "head", "tokens": [[["a"]]]}], "token ids that are none"),
    ([{"type": "head", "tokens": []}], "tokens of other prompts"),
    ([{"type": "head"}], "tokens of other prompts"),
    ([{"type": "tensor", "node": 0, "name": "x"}], "a value that nobody saved: 'x'"),
    ([{"type": "tensor", "node": 99, "name": "x"}], "a value that nobody saved: 'x'"),
    ([{"type": "tensor", "node": 1, "dtype": "float32", "shape": [2], "data": b"1234"}],
     "4 bytes for a float32 tensor of shape"),
    ([{"type": "error", "error": {"code": "internal", "message": "a bug"}}], "a bug"),
    ([{"type": "end", "generated": [[["a"]]]}], "token ids that are none"),
])
def test_frames_that_make_no_sense(model, monkeypatch, frames, sentence):
    monkeypatch.setattr(model.client, "stream", lambda path, body: iter(frames))
    with pytest.raises(interpose.InterposeError, match=sentence):
        with model.trace(IDS):
            x = model.lm_head.output.save()
    with pytest.raises(NoValue, match="lm_head.output has no value: the run failed"):
        x.value


def test_ctrl_c_is_why_there_is_no_value(model, monkeypatch):
    def stream(path, body):
        raise KeyboardInterrupt
    monkeypatch.setattr(model.client, "stream", stream)
    with pytest.raises(KeyboardInterrupt):
        with model.trace(IDS):
            x = model.lm_head.output.save()
    with pytest.raises(NoValue, match="lm_head.output has no value: the run failed: KeyboardInterrupt$"):
        x.value


END = {"type": "end", "generated": []}
STREAMS = [
    (packed({"type": "head"}), "was cut: run it again"),
    (packed({"type": "head"}, END)[:-3], "was cut: run it again"),
    (packed({"type": "head"}, END, {"type": "tensor"}), "no stream of frames"),
    (packed({"type": "head"}, 7, END), "no stream of frames"),
    (b"\xc1\xc1", "no msgpack"),
    (b"", "was cut"),
]


@pytest.mark.parametrize("body, sentence", STREAMS)
def test_a_broken_stream(body, sentence):
    with Pretender(200, {"Content-Type": "application/msgpack"}, body) as fake:
        with pytest.raises(ServerError, match=sentence):
            list(Client(fake.host).stream("/v1/run", {}))


def test_the_users_name_goes_along(monkeypatch):
    with Pretender(200, {"Content-Type": "application/msgpack"}, packed({})) as fake:
        for user, sent in [("ada", "ada"), (None, None)]:
            Client(fake.host, user).ask("/v1/plan", {})
            assert fake.server.headers["X-Interpose-User"] == sent
        monkeypatch.setenv("INTERPOSE_USER", "bob")
        Client(fake.host).ask("/v1/plan", {})
        assert fake.server.headers["X-Interpose-User"] == "bob"
    with pytest.raises(ValueError, match="printable ASCII: not 'ada\\\\n'"):
        Client(user="ada\n")


def test_a_proxy_is_told_who_asks():
    with Pretender(200, {"Content-Type": "application/msgpack"}, packed({})) as fake:
        place = fake.host.partition("://")[2]
        for host, sent in [(f"http://ada:k%40y@{place}", "Basic YWRhOmtAeQ=="), (f"ada:key@{place}/", "Basic YWRhOmtleQ=="),
                           (place, None)]:
            client = Client(host)
            client.ask("/v1/plan", {})
            assert fake.server.headers["Authorization"] == sent
            assert client.host == fake.host, "no error shows the key"
            pickle.loads(pickle.dumps(client)).ask("/v1/plan", {})
            assert fake.server.headers["Authorization"] == sent


def test_heartbeats_are_passed_over():
    body = packed(None, {"type": "head"}, None, None, END, None)
    with Pretender(200, {"Content-Type": "application/msgpack"}, body) as fake:
        frames = list(Client(fake.host).stream("/v1/run", {}))
    assert [f for f in frames if f] == [{"type": "head"}, END]


LARGE = np.arange(70_000, dtype=np.uint8).tobytes()
SPLIT = [       # tensors large and small, and what looks like their data and is not
    {"type": "head"}, None, {"type": "tensor", "name": "ädataƀ data", "shape": [2], "data": LARGE},
    {"type": "tensor", "data": LARGE[:1 << 16]}, None, {"type": "tensor", "data": LARGE[1:1 << 16]},
    {"type": "absent"}, {"data": b""}, {"data": LARGE, "last": "data"}, {"in": {"data": LARGE}},
    {"data": {"data": LARGE}}, ["data", LARGE], {"data": None, "in": {"data": LARGE}},
    {"long": 300 * "data", "data": LARGE}, {"data": LARGE}, END, None]


def frames_in_pieces(body, ends):
    frames = list(frames_of([body[i:j] for i, j in zip([0, *ends], [*ends, len(body)]) if i < j]))
    for frame in frames:
        if isinstance(frame, dict) and isinstance(frame.get("data"), np.ndarray):
            frame["data"][:1] += 0      # may be written to
            frame["data"] = frame["data"].tobytes()
    return frames


def test_a_reply_may_be_split_anywhere():
    body, random = packed(*SPLIT), np.random.default_rng(7)
    assert frames_in_pieces(body, []) == SPLIT
    begins = np.cumsum([len(packed(frame)) for frame in SPLIT])[:-1]
    pasts = [begins + past for past in range(-2, 100)]
    assert frames_in_pieces(body, np.unique(pasts)) == SPLIT        # byte by byte where they meet
    for ends in pasts:
        assert frames_in_pieces(body, np.sort(ends)) == SPLIT
    for _ in range(100):
        ends = np.sort(random.integers(0, len(body), random.integers(1, 40)))
        assert frames_in_pieces(body, ends) == SPLIT
        n_whole = np.searchsorted(begins, ends[-1], "right")
        assert frames_in_pieces(body[:ends[-1]], ends[:-1]) == SPLIT[:n_whole]


def test_a_frame_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("interpose.frames.FRAME_BYTES_MAX", len(LARGE) - 1)
    with pytest.raises(msgpack.BufferFull):
        frames_in_pieces(packed({"data": LARGE}), [1000])


def test_large_tensors_are_not_copied_and_the_user_s_own():
    pieces = [packed({}, {"data": LARGE}, None), packed({"data": LARGE})]
    for data in [frame["data"] for frame in list(frames_of(pieces))[1::2]]:
        x = array_of("float32", [len(LARGE) // 4], data)
        assert np.shares_memory(x, data) and x.flags.writeable and x.flags.aligned
    assert array_of("bool", [1], b"\1").flags.writeable


@pytest.mark.parametrize("status, kind, body, sentence", [
    (502, "text/html", b"<html>Bad gateway", r"is a proxy, and has no server behind it now \(502\)"),
    (401, "text/html", b"<html>Unauthorized", "asks who you are: write user:key@ in front of its name, in `host`"),
    (200, "text/html", b"<html>Hello", "answered 200 with something that is not ours"),
    (404, "application/json", b'{"error": {"code": "unknown", "message": "no such route"}}',
     r"no such route \(unknown\)"),
    (503, "application/json", b'{"message": "hm"}', "refused without saying why"),
])
def test_answers_that_are_no_documents(status, kind, body, sentence):
    with Pretender(status, {"Content-Type": kind}, body) as fake:
        with pytest.raises(interpose.InterposeError, match=sentence):
            Client(fake.host).ask("/v1/plan", {})


class Clock:
    """A time in which sleeping takes none."""

    def __init__(self):
        self.now, self.waited = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.waited.append(seconds)


def refusal(code, status=503, **headers):
    return (status, {"Content-Type": "application/msgpack", **headers},
            packed({"error": {"code": code, "message": "come back"}}))


AFTER_2 = {"Retry-After": "2"}


def test_a_busy_server_is_asked_again(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("interpose.client.time", clock)
    before = [refusal("busy", **AFTER_2), refusal("busy", 429, **{"Retry-After": "7"})]
    frames = packed({"type": "head"}, END)
    with Pretender(200, {"Content-Type": "application/msgpack"}, frames, before) as fake:
        assert list(Client(fake.host).stream("/v1/run", {})) == [{"type": "head"}, END]
    assert len(clock.waited) == 2
    assert 2 <= clock.waited[0] <= 2.5 and 7 <= clock.waited[1] <= 7.5
    # Not for ever: what is raised then is what the server said.
    del clock.waited[:]
    with Pretender(*refusal("busy", **AFTER_2)) as fake:
        with pytest.raises(RequestError, match=r"^come back \(busy\)$"):
            Client(fake.host).ask("/v1/plan", {})
        assert fake.server.n_requests == len(clock.waited) + 1
        assert 57 < sum(clock.waited) <= interpose.client.BUSY_SECONDS == 60
        monkeypatch.setattr("interpose.client.BUSY_SECONDS", 0)
        with pytest.raises(RequestError, match="come back"):
            list(Client(fake.host).stream("/v1/run", {}))
        assert fake.server.n_requests == len(clock.waited) + 2


@pytest.mark.parametrize("status, headers, body, sentence", [
    (*refusal("busy"), "come back \\(busy\\)"),
    (*refusal("busy", **{"Retry-After": "61"}), "come back"),
    (*refusal("busy", **{"Retry-After": "Thu, 26 Nov 2026 13:00:00 GMT"}), "come back"),
    (*refusal("draining", **AFTER_2), "come back \\(draining\\)"),
    (*refusal("busy", 500, **AFTER_2), "come back"),
    (503, {"Content-Type": "text/html", **AFTER_2}, b"<html>", "is a proxy, and has no server behind it now"),
    (503, {"Content-Type": "application/json", **AFTER_2}, b'{"error": []}', "refused without saying why"),
    (200, {"Content-Type": "application/msgpack", **AFTER_2}, packed({"type": "head"}), "was cut: run it again"),
])
def test_what_is_not_asked_again(monkeypatch, status, headers, body, sentence):
    clock = Clock()
    monkeypatch.setattr("interpose.client.time", clock)
    with Pretender(status, headers, body) as fake:
        with pytest.raises(interpose.InterposeError, match=sentence):
            list(Client(fake.host).stream("/v1/run", {}))
        assert fake.server.n_requests == 1 and not clock.waited


@pytest.mark.parametrize("dtype, shape, data", [
    ("float32", [2], b"1234"), ("float64", [1], b"12345678"), ("float32", [-1, -1], b"1234"),
    ("float32", [1.0], b"1234"), ("float32", 1, b"1234"), ("float32", [1], "1234"),
    ("float32", [True], b"1234"), (None, None, None), ("object", [1], b"12345678"),
])
def test_a_malformed_tensor_is_not_believed(dtype, shape, data):
    with pytest.raises(ServerError, match="the server's reply is malformed"):
        array_of(dtype, shape, data)


def test_a_stale_connection_is_replaced(start_server, name):
    with start_server() as first:
        model = LanguageModel(name, host=first.host)
        port = first.port
        with model.trace(IDS):
            model.transformer.wte.output.save()
    with start_server("--port", port):
        with model.trace(IDS):
            x = model.transformer.wte.output.save()
        assert x.value.any()


# What comes with the package.

MODULES = [m.name for m in pkgutil.iter_modules(interpose.__path__) if not m.name.startswith("__")]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(model, module):
    source = importlib.import_module(f"interpose.{module}")
    names = {"model": model, "interpose": interpose, "np": np}
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    for test in finder.find(source, extraglobs=names):
        runner.run(test)
    if module == "functions":
        for name, function in interpose.functions.FUNCTIONS.items():
            for test in finder.find(function, name, module=False, globs=dict(names)):
                assert test.examples
                runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_every_public_name_is_documented():
    for name in interpose.__all__:
        assert getattr(interpose, name).__doc__, name
    for thing in (LanguageModel, interpose.Proxy, interpose.run.Run, interpose.tree.Module):
        for name, member in vars(thing).items():
            if not name.startswith("_") and not name.endswith("_") and callable(member):
                assert member.__doc__, (thing, name)


README = [      # what a block of the README prints or holds, by a text that the block alone has
    ("ablated", "ablated.value.shape == normal.value.shape"),
    ("cross_entropy_loss(model.lm_head", "loss.value.shape == () and best.indices.shape == (3,)"),
    ("h.half()", "short.dtype == np.float16 and order.shape == (5,)"),
    ("rearrange", "norms.value.shape == (1, model.config.n_heads)"),
    ("tracer.iter[1:]", "len(best) == 4 and float(late) == float(third)"),
    ("large.else_()", "logits.ndim == 1 and not seen._has_come()"),
    ("donor", "len(patched.output[0]) == len(model.tokenizer.encode('The Colosseum is in the city of')) + 2"),
    ("as edited", "len(run.output) == 1"),
    ("tracer.cache", "not cache['transformer.h.0.mlp'].output.any()"),
    ("positions", "norms.shape == (1, 10) and not never._has_come()"),
    ("model.scan", "queries.shape[1] == model.config.n_heads"),
    ("invoke():", "best.shape == (2,)"),
    ("differences", "differences.shape == (model.config.n_blocks, 15)"
     " and differences[-1, -1] > 0 > differences[0, 0]"),
    ("streamer", "logprob.value.shape == (3, 1) and len(run.finish_reasons) == 3"),
    ("logit_attrs", "attrs.shape == (len(labels), 1) and loss > 0 and pattern.shape[2:] == (10, 10)"
     " and scores[0].shape == (1, model.config.n_heads)"),
]


def test_the_readme_runs(server, name):
    """Block by block, in one module."""
    path = pathlib.Path(__file__).parent.parent / "clients/python/README.md"
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert 'LanguageModel("demo")' in blocks[0]
    blocks[0] = blocks[0].replace('"demo"', f"{name!r}, host={server.host!r}")
    facts = {"np": np}
    for block in blocks:
        exec(compile(block, str(path), "exec"), facts)
        for mark, fact in README:
            assert mark not in block or eval(fact, facts), fact
    assert all(any(mark in block for block in blocks) for mark, _ in README)


def test_torch_is_not_needed(server, name):
    code = f"""
import sys
sys.modules["torch"] = None
import interpose
model = interpose.LanguageModel({name!r}, host={server.host!r})
with model.trace([1, 2]):
    x = (model.transformer.wte.output * 2).save()
del sys.modules["torch"]    # for which einops looks there
import einops
print(einops.rearrange(x, "b t d -> t (b d)").shape[0], einops.asnumpy(x) is x.value, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(pathlib.Path(
                              interpose.__file__).parent.parent)})
    assert done.stdout == "2 True False\n", done.stderr


def test_progress_is_silent_where_nobody_watches(model, capfd):
    with model.generate(IDS, max_new_tokens=20):
        pass
    assert capfd.readouterr() == ("", "")


def test_progress_is_drawn_and_taken_away(monkeypatch):
    from interpose import progress

    class Terminal(list):
        def isatty(self):
            return True

        def write(self, text):
            self.append(text)

        def flush(self):
            drawn.set()
    terminal, drawn = Terminal(), threading.Event()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    with progress.Progress(True) as p:
        p.text = "step 1 of 2"
        assert drawn.wait(30)
    assert any("interpose: 0 s, " in line for line in terminal)
    assert terminal[-1].strip() == ""
    with progress.Progress(False):
        pass


def test_the_client_itself_is_quick(model):
    """What the client adds to a short trace, without the server's time: a few milliseconds even on
    a machine that is busy with other tests."""
    def trace():
        with model.trace(list(range(10))) as run:
            model.transformer.h[-1].output[0].save()
        return run.timing["queue"] + run.timing["run"]
    trace()
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        served = trace()
        best = min(best, time.perf_counter() - start - served)
    assert best < 0.02
