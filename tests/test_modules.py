"""Parameters as tensors of a graph, and modules applied to tensors, beside Hugging Face's and beside
what the model itself computes, on the demo model and on a small random one whose head is not its
embedding."""
import pathlib

import numpy as np
import pytest
import torch
import transformers

import gpt2_files
import interpose
import wire

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = {"n_layer": 3, "n_embd": 24, "n_head": 3, "vocab_size": 130, "n_positions": 64,
         "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0}
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module", params=["small", "demo"])
def folder(request, tmp_path_factory):
    if request.param == "demo":
        return gpt2_files.DEMO
    path = tmp_path_factory.mktemp("model") / "small"
    gpt2_files.random_model(**SIZES).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def served(folder, start_server):
    with start_server("--model", str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def model(served, folder):
    return interpose.LanguageModel(folder.name, host=served.host, progress=False)


@pytest.fixture(scope="module")
def hf(folder):
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def lens_of(hf, name, block):
    """What a name of TransformerLens's means, from Hugging Face's weights."""
    n_heads, body = hf.config.n_head, hf.transformer
    block = body.h[block]
    def part(i):
        w, b = block.attn.c_attn.weight.chunk(3, -1)[i], block.attn.c_attn.bias.chunk(3)[i]
        return w.unflatten(-1, (n_heads, -1)).permute(1, 0, 2), b.unflatten(-1, (n_heads, -1))
    return {
        "W_E": body.wte.weight, "W_pos": body.wpe.weight, "W_U": hf.lm_head.weight.T,
        "W_Q": part(0)[0], "W_K": part(1)[0], "W_V": part(2)[0],
        "b_Q": part(0)[1], "b_K": part(1)[1], "b_V": part(2)[1],
        "W_O": block.attn.c_proj.weight.unflatten(0, (n_heads, -1)), "b_O": block.attn.c_proj.bias,
        "W_in": block.mlp.c_fc.weight, "b_in": block.mlp.c_fc.bias,
        "W_out": block.mlp.c_proj.weight, "b_out": block.mlp.c_proj.bias,
        "ln1.w": block.ln_1.weight, "ln1.b": block.ln_1.bias,
        "ln2.w": block.ln_2.weight, "ln2.b": block.ln_2.bias,
        "ln_final.w": body.ln_f.weight, "ln_final.b": body.ln_f.bias,
    }[name]


def expected(hf, path, block):
    parameters = dict(hf.named_parameters())
    parameters["lm_head.weight"] = hf.lm_head.weight    # left out where it is the embedding
    if path.replace("*", str(block)) in parameters:
        return parameters[path.replace("*", str(block))]
    *_, module, name = ["", *path.split(".")]
    return lens_of(hf, f"{module}.{name}" if module.startswith("ln") else name, block)


def rows_of(spec):
    return [(row["path"], row["shape"], row["each_block"]) for row in spec["parameters"]]


def test_every_name_of_every_parameter_has_its_bits(served, model, hf):
    rows = rows_of(model.client.document("/v1/spec"))
    hf_names = {path.replace(".1.", ".*.") for path, _ in hf.named_parameters()} | {"lm_head.weight"}
    ours = {path for path, _, _ in rows}
    assert {path for path in hf_names if ".0." not in path and ".2." not in path
            and not any(f".{i}." in path for i in range(3, hf.config.n_layer))} <= ours
    for path, shape, each_block in rows:
        block = hf.config.n_layer - 1 if each_block else 0
        want = expected(hf, path, block).detach().numpy()
        name = path.replace("*", "-1")
        saved, _ = wire.run(served.host, {"prompt": IDS, "save": {"x": name}})
        assert saved["x", 0].shape == want.shape, path
        assert saved["x", 0].tobytes() == want.tobytes(), path
        sizes = {"H": hf.config.n_head, "D": hf.config.n_embd, "V": hf.config.vocab_size,
                 "C": hf.config.n_positions, "F": 4 * hf.config.n_embd}
        text = shape.replace("3D", "3*D")
        assert tuple(int(n) for n in eval(text, sizes)) == want.shape, path


VIEWS = [   # an expression of the client's, and torch's
    "model.W_U[:, 7]",
    "model.lm_head.weight[[5, 9, 5]]",
    "model.W_U[:, [5, 9, 5]]",
    "model.blocks[1].attn.W_Q[1, :, 2:5]",
    "model.blocks[1].attn.W_O[-1].T",
    "model.blocks[0].attn.W_V.transpose(0, 1)[3:20:4]",
    "model.blocks[2].mlp.W_in[::5, 1].unsqueeze(0).expand(3, -1)",
    "model.transformer.h[1].mlp.c_proj.weight.mean(0)",
    "model.transformer.h[1].attn.c_attn.weight.reshape(-1)[30:90]",
    "model.transformer.wte.weight[[7, 1, 7]] + model.W_pos[:3]",
    "model.blocks[1].attn.W_V[0] @ model.blocks[1].attn.W_O[0]",
]


class Torch:
    """The same names over Hugging Face's weights."""

    def __init__(self, hf):
        self.transformer, self.lm_head = hf.transformer, hf.lm_head
        self.blocks = [_Names(hf, i) for i in range(hf.config.n_layer)]
        self.W_U, self.W_pos = hf.lm_head.weight.T, hf.transformer.wpe.weight


class _Names:
    def __init__(self, hf, block):
        self.attn = self.mlp = self
        self._of = lambda name: lens_of(hf, name, block)

    def __getattr__(self, name):
        return self._of(name)


@pytest.mark.parametrize("text", VIEWS)
def test_views_of_parameters_are_torch_s(model, hf, text):
    with model.trace(IDS):
        x = eval(text, {"model": model}).save()
    want = eval(text, {"model": Torch(hf)}).detach().numpy()
    assert x.value.shape == want.shape
    np.testing.assert_allclose(x.value, want, rtol=2e-5, atol=1e-6)
    if "@" not in text and "mean" not in text:
        assert x.value.tobytes() == want.tobytes()


def test_parameters_at_all_moments_of_a_run(model, hf):
    """The same column before the pass, in its middle, at its end, in the last step; and by ids that
    the graph computes."""
    names = Torch(hf)
    with model.generate(IDS, max_new_tokens=2):
        late = (model.transformer.h[2].output[0][0, -1] * model.W_U[:, 7]).sum().save()
        early = (model.transformer.wte.output[0, -1] * model.W_U[:, 7]).sum().save()
        best = model.lm_head.output[0].argmax(-1)
        rows = model.lm_head.weight.index_select(0, best).save()
        alone = model.W_U[:, 7].save()
        ids = best.save()
        last = (model.lm_head.step(1).output[0, -1, :3] + model.transformer.ln_f.bias[:3]).save()
        shown = model.lm_head.step(1).output[0, -1, :3].save()
        resid = model.transformer.h[2].output[0][0, -1].save()
    column = names.W_U[:, 7].detach().numpy()
    assert alone.value.tobytes() == column.tobytes()
    np.testing.assert_allclose(late.value, resid.value @ column, rtol=1e-4, atol=1e-5)
    want = hf.transformer.wte.weight[IDS[-1]].detach().numpy() @ column
    np.testing.assert_allclose(early.value, want, rtol=1e-4, atol=1e-5)
    assert rows.value.tobytes() == hf.lm_head.weight[torch.tensor(ids.value)].detach().numpy().tobytes()
    bias = hf.transformer.ln_f.bias[:3].detach().numpy()
    assert (last.value == shown.value + bias).all()


def slab(served, nodes):
    status, plan = wire.post_json(served.host, "/v1/plan", {"prompt": IDS, "nodes": nodes})
    assert status == 200, plan
    return plan["slab_bytes"]


def test_no_more_of_a_parameter_is_unpacked_than_is_looked_at(served, hf):
    n, D = 4 * hf.config.n_embd, hf.config.n_embd
    whole = 4 * D * hf.config.vocab_size
    def save(path, index=None):
        return [{"op": "save", "args": [path + (index or "")], "name": path + (index or "")}]
    assert slab(served, save("W_U", "[:, 7]")) <= n + 64
    assert slab(served, save("transformer.wte.weight")) == 0
    assert slab(served, save("transformer.wte.weight", "[3:9]")) == 0
    assert slab(served, save("W_U")) <= whole + 64
    assert slab(served, save("W_U", "[:1]") + save("lm_head.weight")) <= whole + 64
    picked = [{"op": "index_select", "args": ["W_U", 1, {"tensor": [5, 9, 5]}]},
              {"op": "save", "args": [{"node": 0}]}]
    assert slab(served, picked) <= 3 * n + 256
    assert slab(served, picked + save("W_U", "[:, 7]")) <= 4 * n + 256
    # Two blocks' matrices, each read by its own block, share a place.
    each = [[{"op": "matmul", "args": [f"transformer.h.{i}.output[0]",
                                       f"transformer.h.{i}.mlp.c_fc.weight"]},
             {"op": "save", "args": [{"node": 2 * i}], "name": f"x{i}"}] for i in range(2)]
    inner = 4 * D * 4 * D
    assert inner <= slab(served, each[0] + each[1]) < 2 * inner


@pytest.mark.parametrize("nodes, code, message", [
    ([{"op": "set", "args": ["transformer.wte.weight[3]", 0.0]}], "type",
     "transformer.wte.weight can be read, but not set"),
    ([{"op": "set", "args": ["blocks.1.attn.W_Q[0]", 0.0]}], "type",
     "transformer.h.1.attn.c_attn.weight can be read, but not set"),
    ([{"op": "save", "args": ["transformer.h.99.ln_1.weight"]}], "unknown",
     "transformer.h.99.ln_1.weight does not exist: this model has blocks 0 to {last}"),
    ([{"op": "save", "args": ["transformer.wte.weigth"]}], "unknown",
     'there is no hook point or name "transformer.wte.weigth": did you mean '
     'transformer.wte.weight?'),
    ([{"op": "hook", "args": ["transformer.wte.weight"]}], "unknown",
     "transformer.wte.weight is a parameter, not a hook point"),
    ([{"op": "parameter", "args": ["transformer.wte.output"]}], "unknown",
     "transformer.wte.output is a hook point, not a parameter"),
    ([{"op": "parameter", "args": ["W_U[0]"]}], "syntax",
     'parameter takes a path without an index: "W_U"'),
    ([{"op": "parameter", "args": [7]}], "type",
     "a path is a text, not an integer"),
    ([{"op": "getitem", "args": ["W_U", "[{width}]"]}], "index",
     "index {width} is out of range for dimension 0 of size {width}"),
])
def test_what_is_refused(served, hf, nodes, code, message):
    names = {"last": hf.config.n_layer - 1, "width": hf.config.n_embd}
    nodes = [{**node, "args": [a.format(**names) if isinstance(a, str) else a
                               for a in node["args"]]} for node in nodes]
    with pytest.raises(wire.Refused) as refused:
        wire.run(served.host, {"prompt": IDS, "nodes": nodes})
    assert refused.value.error["code"] == code
    assert refused.value.error["message"] == message.format(**names)


def test_too_much_memory_is_refused_with_the_sum(served, hf):
    """Sums that all wait for the last of them, and the matrix that they read."""
    whole = 4 * hf.config.n_embd * hf.config.vocab_size
    n = min((1 << 30) // whole + 1, 4000)
    nodes = [{"op": "add", "args": ["lm_head.weight", 1.0], "name": f"x{i}"} for i in range(n)]
    nodes += [{"op": "save", "args": [f"x{i}[0, 0]"], "name": f"y{i}"} for i in range(n)]
    request = {"prompt": IDS, "nodes": nodes}
    if n == 4000:   # a small model: it is what the plan says
        assert slab(served, nodes) == whole * (n + 1) + 64
        return
    with pytest.raises(wire.Refused) as refused:
        wire.run(served.host, request)
    assert refused.value.error["code"] == "limit"
    assert refused.value.error["message"] == (
        f"the graph keeps values of {whole * (n + 1) + 64} bytes at the same time: the limit is "
        f"{1 << 30}")


def test_the_client_refuses_to_set_a_parameter(model):
    with pytest.raises(AttributeError, match="transformer.wte.weight is a parameter: it can be read, "
                                             "but not set"):
        with model.trace(IDS):
            model.transformer.wte.weight = 0.0
    with pytest.raises(interpose.RequestError, match="can be read, but not set"):
        with model.trace(IDS):
            model.blocks[0].mlp.W_in[0] = 0.0
            model.lm_head.output.save()


def test_a_rounded_model_shows_what_it_computes_with(folder, start_server, hf):
    """bf16 and int8 servers give the numbers that their products multiply by."""
    with start_server("--model", str(folder), "--weights", "bf16") as running:
        saved, _ = wire.run(running.host, {"prompt": IDS, "save": {
            "u": "W_U[:, 3]", "e": "W_E[3]", "q": "blocks.1.attn.W_K[1]"}})
    column = hf.lm_head.weight[3].detach()
    assert saved["u", 0].tobytes() == column.bfloat16().float().numpy().tobytes()
    assert saved["e", 0].tobytes() == hf.transformer.wte.weight[3].detach().numpy().tobytes()
    key = lens_of(hf, "W_K", 1)[1].detach()
    assert saved["q", 0].tobytes() == key.bfloat16().float().numpy().tobytes()


# Modules.

LAYERS = ["transformer.h[1].ln_1", "transformer.h[1].attn.c_attn", "transformer.h[2].attn.c_proj",
          "transformer.h[0].ln_2", "transformer.h[1].mlp.c_fc", "transformer.h[1].mlp.act",
          "transformer.h[1].mlp.c_proj", "transformer.h[2].mlp", "transformer.ln_f", "lm_head",
          "transformer.h[1].attn", "transformer.h[2]", "transformer.wte", "transformer.drop"]


def place(root, path):
    return eval(f"root.{path}", {"root": root})


def first(x):
    return x[0] if isinstance(x, tuple) else x


@pytest.mark.parametrize("path", LAYERS)
def test_a_module_applied_has_the_bits_of_the_model_s_own(model, path):
    with model.trace([IDS, IDS[::-1]]):
        module = place(model, path)
        again = first(module(module.input)).save()
        own = first(module.output).save()
    assert again.value.tobytes() == own.value.tobytes()


@pytest.mark.parametrize("path", [p for p in LAYERS if p != "transformer.wte"])
def test_a_module_applied_is_torch_s_on_any_tensor(model, hf, path):
    width = {"c_proj": 4, "act": 4}.get(path.rpartition(".")[2], 1) * hf.config.n_embd
    width = hf.config.n_embd if "attn" in path else width
    x = np.random.default_rng(3).standard_normal((2, 5, width)).astype(np.float32)
    with torch.no_grad():
        want = first(place(hf, path)(torch.tensor(x))).numpy()
    with model.trace(IDS):
        y = first(place(model, path)(x)).save()
        part = None
        if not path.endswith(("attn", "]")):    # layers that see no other row take any shape
            part = place(model, path)(interpose.tensor(x)[1, ::2]).save()
    assert y.value.shape == want.shape
    np.testing.assert_allclose(y.value, want, rtol=1e-4, atol=2e-5 * max(1, np.abs(want).max()))
    if part is not None:
        assert part.value.tobytes() == y.value[1, ::2].tobytes()


def test_embeddings_take_ids(model, hf):
    positions = list(range(len(IDS)))
    with model.trace(IDS):
        rows = model.transformer.wte(model.lm_head.output.argmax(-1)).save()
        ids = model.lm_head.output.argmax(-1).save()
        both = (model.transformer.wte([IDS]) + model.transformer.wpe([positions])).save()
        own = model.transformer.drop.output.save()
    assert rows.value.tobytes() == hf.transformer.wte.weight.detach()[ids.value].numpy().tobytes()
    assert both.value.tobytes() == own.value.tobytes()


def test_no_hook_fires_in_a_module_that_is_applied(model):
    with model.trace(IDS):
        block = model.transformer.h[1]
        clean = block.mlp(block.ln_2(block.ln_2.input)).save()
        block.mlp.act.output[:] = 0.
        block.ln_2.output[:] = 1.
        changed = block.mlp.output.save()
    with model.trace(IDS):
        own = model.transformer.h[1].mlp.output.save()
    assert clean.value.tobytes() == own.value.tobytes() != changed.value.tobytes()


def test_a_run_of_whole_blocks_is_the_model(model):
    """The last blocks by hand, on what an earlier one gave, and then the head: a lens that skips."""
    with model.generate([IDS], max_new_tokens=1):
        x = model.transformer.h[0].output[0]
        for block in model.transformer.h[1:]:
            x = block(x)[0]
        logits = model.lm_head(model.transformer.ln_f(x)).save()
        own = model.lm_head.output.save()
    assert logits.value[:, -1].tobytes() == own.value[:, -1].tobytes()


@pytest.mark.parametrize("theirs, ours", [
    ("blocks[1]", "transformer.h[1]"), ("blocks[1].attn", "transformer.h[1].attn"),
    ("blocks[-1].mlp", "transformer.h[-1].mlp"), ("blocks[0].ln2", "transformer.h[0].ln_2"),
    ("ln_final", "transformer.ln_f"), ("unembed", "lm_head")])
def test_transformer_lens_s_modules_are_the_same(model, theirs, ours):
    with model.trace(IDS):
        x = model.transformer.h[0].output[0]
        one, other = place(model, theirs)(x).save(), first(place(model, ours)(x)).save()
    assert one.value.tobytes() == other.value.tobytes()


@pytest.mark.parametrize("path, shape, code, message", [
    ("lm_head", [2, 5], "shape", "lm_head of (2, 5): the last dimension must be {D}"),
    ("transformer.h.1.mlp.c_proj", [3, 8], "shape",
     "transformer.h.1.mlp.c_proj of (3, 8): the last dimension must be {F}"),
    ("transformer.h.-1.ln_1", [], "shape",
     "transformer.h.{last}.ln_1 of (): the last dimension must be {D}"),
    ("transformer.h.99.ln_1", [1], "unknown",
     "transformer.h.99.ln_1 does not exist: this model has blocks 0 to {last}"),
    ("transformer.h.1.mlp.fc", [1], "unknown",
     'there is no module "transformer.h.1.mlp.fc" to apply: did you mean transformer.h.*.mlp.c_fc?'),
    ("lm_head[0]", [1], "syntax", 'apply takes a path without an index: "lm_head"'),
    ("transformer.ln_f", [90000, "D"], "limit", None),
])
def test_what_is_not_applied(served, hf, path, shape, code, message):
    names = {"D": hf.config.n_embd, "F": 4 * hf.config.n_embd, "last": hf.config.n_layer - 1}
    shape = [names.get(n, n) for n in shape]
    nodes = [{"op": "expand", "args": [{"tensor": 1.0}, shape]},
             {"op": "apply", "args": [{"node": 0}, path]}]
    nodes += [{"op": "apply", "args": [{"node": i}, path]} for i in range(1, 40 * (code == "limit"))]
    nodes.append({"op": "save", "args": [{"tensor": 1.0}], "name": "other"})
    nodes += [{"op": "save", "args": [{"node": i}], "name": f"y{i}"}
              for i in range(1, 40 * (code == "limit"))]
    with pytest.raises(wire.Refused) as refused:
        wire.run(served.host, {"prompt": IDS, "nodes": nodes})
    assert refused.value.error["code"] == code
    if message:
        assert refused.value.error["message"] == message.format(**names)


def test_what_the_client_does_not_apply(model):
    with pytest.raises(ValueError, match=r"transformer.h.0.attn takes \(..., T, "):
        with model.trace(IDS):
            model.transformer.h[0].attn(model.transformer.h[0].input[0, 0])
    with pytest.raises(TypeError, match=r"transformer.h.0\(x\) is a tuple of 1: its tensor is "
                                        r"transformer.h.0\(x\)\[0\]"):
        with model.trace(IDS):
            model.transformer.h[1](model.transformer.h[0](model.transformer.h[0].input))
    with pytest.raises(interpose.RequestError, match="transformer.h.0.mlp.c_fc of .* the last "
                                                     "dimension must be"):
        with model.trace(IDS):
            model.transformer.h[0].mlp(model.lm_head.output).save()
