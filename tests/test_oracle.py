"""Activations at every hook point and logits, through the server, against Hugging Face's GPT-2 in
fp32 with forward hooks: on a random model of real size (124M) and on the demo model, read and
edited, over prompts and in generation with the cache."""
import pathlib
import re

import numpy as np
import pytest
import torch
import transformers

import oracle
import wire

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = 12

# Relative error of what the residual stream holds, and of scores, which are products of two of them;
# absolute error of logits.
RELATIVE, SCORES, LOGITS = 2e-6, 5e-6, 1e-4


class Pair:
    """A server and an oracle on the same weights."""

    def __init__(self, host, folder):
        self.host, self.oracle = host, oracle.Oracle(folder)
        config = self.oracle.model.config
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(config.vocab_size, (TOKENS,), generator=generator).tolist()
        self.n_blocks = config.n_layer

    def paths(self):
        for generic in oracle.PLACES:
            for block in range(self.n_blocks) if "*" in generic else [0]:
                yield generic.replace("*", str(block))


@pytest.fixture(scope="module", params=["random-124m", "demo"])
def pair(request, start_server):
    folder = ROOT / "models/demo"
    if request.param != "demo":
        folder = ROOT / "build/models" / request.param
        if not (folder / "model.safetensors").exists():
            oracle.random_gpt2(folder)
    with start_server("--model", str(folder)) as server:
        yield Pair(server.host, folder)


def check(path, ours, theirs):
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape, path
    if path.endswith("scores.output"):
        hidden = np.isneginf(theirs)
        assert (np.isneginf(ours) == hidden).all(), path
        ours, theirs = np.where(hidden, 0, ours), np.where(hidden, 0, theirs)
    if path == "lm_head.output":
        assert np.abs(ours - theirs).max() <= LOGITS, path
    else:
        error = np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs)
        allowed = SCORES if path.endswith("scores.output") else RELATIVE
        assert error <= allowed, f"{path}: relative error {error:.2e}"


def save(name, path, step=0):
    return {"op": "save", "args": [path], "name": name, "step": step}


def test_every_point_reads_what_hf_computes(pair):
    paths = list(pair.paths())
    expected = pair.oracle.run(pair.ids, paths)
    saved, _ = wire.run(pair.host, {"prompt": pair.ids, "nodes": [
        save(f"n{i}", path) for i, path in enumerate(paths)]})
    for i, path in enumerate(paths):
        check(path, saved[f"n{i}", 0], expected[path])


def test_keys_and_values_are_what_hf_caches(pair):
    cache = transformers.DynamicCache()
    pair.oracle.run(pair.ids, cache=cache)
    nodes = [save(f"h{block}.{which}", f"transformer.h.{block}.output[1][{which}]")
             for block in range(pair.n_blocks) for which in (0, 1)]
    saved, _ = wire.run(pair.host, {"prompt": pair.ids, "nodes": nodes})
    for block in range(pair.n_blocks):
        for which, tensor in enumerate((cache.layers[block].keys, cache.layers[block].values)):
            check(f"output[1][{which}]", saved[f"h{block}.{which}", 0], tensor)


def zero_slice(x):
    x[:, -1] = 0.0


def scale_columns(x):
    x[..., 1:7] *= -2.5


def shift_middle(x):
    x[:, 2:5] += 0.75


def scale_column(x):
    x[..., 0] *= -2.5


EDITS = {
    "zero": (zero_slice, "[:, -1]", lambda x: 0.0),
    "scale": (scale_columns, "[..., 1:7]", lambda x: {"op": "mul", "args": [x, -2.5]}),
    "shift": (shift_middle, "[:, 2:5]", lambda x: {"op": "add", "args": [x, 0.75]}),
    "column": (scale_column, "[..., 0]", lambda x: {"op": "mul", "args": [x, -2.5]}),
}


def edits_of(path):
    """A scale has one column, and where it is zero there are no numbers; nor where a score of minus
    infinity changes its sign. A result can only be read."""
    if path.endswith(".result.output"):
        return []
    if path.endswith(".scale"):
        return ["shift", "column"]
    return ["zero", "column" if path.endswith(".scores.output") else "scale", "shift"]


@pytest.mark.parametrize("generic, edit", [(path, edit) for path in oracle.PLACES
                                           for edit in edits_of(path)])
def test_an_edit_at_any_point_changes_what_hf_would_change(pair, generic, edit):
    path = generic.replace("*", str(pair.n_blocks // 2))
    function, index, value = EDITS[edit]
    later = [f"transformer.h.{pair.n_blocks - 1}.output[0]", "lm_head.output"]
    expected = pair.oracle.run(pair.ids, later, [(path, function)])
    nodes = [{"op": "getitem", "args": [path, index]}]
    change = value({"node": 0})
    if isinstance(change, dict):
        nodes.append(change)
        change = {"node": 1}
    nodes.append({"op": "set", "args": [{"node": 0}, change]})
    saved, _ = wire.run(pair.host, {"prompt": pair.ids, "nodes": nodes + [
        save(f"n{i}", p) for i, p in enumerate(later)]})
    for i, p in enumerate(later):
        check(p, saved[f"n{i}", 0], expected[p])


def test_several_edits_together(pair):
    edits = [("transformer.h.0.attn.value.output", zero_slice),
             ("transformer.h.1.mid.output", shift_middle),
             ("transformer.h.2.mlp.act.output", scale_columns)]
    expected = pair.oracle.run(pair.ids, ["lm_head.output"], edits)
    nodes = [
        {"op": "set", "args": ["transformer.h.0.attn.value.output[:, -1]", 0.0]},
        {"op": "getitem", "args": ["transformer.h.1.mid.output", "[:, 2:5]"], "name": "m"},
        {"op": "add", "args": ["m", 0.75], "name": "shifted"},
        {"op": "set", "args": ["m", "shifted"]},
        {"op": "getitem", "args": ["transformer.h.2.mlp.act.output", "[..., 1:7]"], "name": "a"},
        {"op": "mul", "args": ["a", -2.5], "name": "scaled"},
        {"op": "set", "args": ["a", "scaled"]},
        save("logits", "lm_head.output")]
    saved, _ = wire.run(pair.host, {"prompt": pair.ids, "nodes": nodes})
    check("lm_head.output", saved["logits", 0], expected["lm_head.output"])


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("edited", ["query", "key", "value", "scores", "pattern"])
def test_generation_with_the_cache_and_an_edit_at_two_steps(pair, edited, first):
    """Greedy ids equal HF's; activations of each step equal a cached HF step's, where two steps have an
    edit whose effect the later steps see through the cache."""
    n_new, edited = 5, f"transformer.h.0.attn.{edited}.output"
    paths = [edited, "transformer.h.1.attn.scores.output", "transformer.h.1.attn.pattern.output",
             "transformer.h.1.attn.z.output", "transformer.h.1.attn.result.output",
             "transformer.h.1.ln_2.scale", "transformer.h.1.ln_2.normalized",
             f"transformer.h.{pair.n_blocks - 1}.output[0]", "lm_head.output"]
    nodes = [save(f"s{step}.{path}", path, step) for step in range(n_new) for path in paths]
    nodes[:0] = [{"op": "set", "args": [f"{edited}[:, 1]", 0.5], "step": step}
                 for step in (first, first + 1)]
    saved, end = wire.run(pair.host, {"prompt": pair.ids, "nodes": nodes,
                                      "max_new_tokens": n_new})

    def edit(x):
        x[:, 1] = 0.5

    cache, ids, new = transformers.DynamicCache(), pair.ids, []
    for step in range(n_new):
        edits = [(edited, edit)] if step in (first, first + 1) else []
        values = pair.oracle.run(ids, paths, edits, cache)
        for path in paths:
            check(path, saved[f"s{step}.{path}", step], values[path])
        ids = [int(values["lm_head.output"][0, -1].argmax())]
        new += ids
    assert end["generated"][0][0] == new


def test_every_name_of_the_spec_is_covered():
    """A new row in points.def must say here what it means in HF's model, or why it has no tensor."""
    table = (ROOT / "protocol/points.def").read_text()
    canonical = {}
    for point, path in re.findall(r'^NAME\((\w+),\s+"([^"]+)"', table, re.M):
        canonical.setdefault(point, path)
    elsewhere = {"transformer.wte.input", "transformer.h.*.output[1][0]",
                 "transformer.h.*.output[1][1]", "generator.output",
                 "generator.streamer.output"}
    assert set(canonical.values()) - elsewhere == set(oracle.PLACES)
