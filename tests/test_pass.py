"""kernels/gpt2.c beside HF's GPT-2: every activation of every hook point, and keys and values from
the cache.

The C side is build/tests/pass_tool. HF's own noise in float32 is part of the bounds.
"""

import re

import numpy as np
import pytest
import torch

from gpt2_files import DEMO, ROOT, activations, random_ids, random_model
import transformers

RESIDUAL = ("embed", "embed_sum", "block_in", "ln1_in", "mid", "ln2_in", "block_out", "lnf_in")
RESIDUAL_ERROR = 2e-6  # relative, as norms
OTHER_ERROR = 5e-6  # a branch's output is a small difference of large numbers
LOGITS_ERROR = 1e-4  # absolute

# One pass; a long one and single tokens; pieces on both sides of a page's end.
PASSES = [(33,), (20, 1, 1, 1), (7, 60, 1, 30, 2)]

SIZES = {
    "odd": dict(n_layer=3, n_head=3, n_embd=51, n_positions=103, vocab_size=257, n_inner=77),
    "one": dict(n_layer=1, n_head=1, n_embd=8, n_positions=101, vocab_size=11),
    "gpt2": {},  # the 124M parameters of the smallest GPT-2
}


@pytest.fixture(scope="module", params=[*SIZES, "demo"])
def model(request, tmp_path_factory):
    """(folder, HF's model)"""
    if request.param == "demo":
        if not (DEMO / "model.safetensors").exists():
            pytest.skip("models/demo has no model.safetensors")
        hf = transformers.GPT2LMHeadModel.from_pretrained(DEMO, dtype=torch.float32).eval()
        return DEMO, hf
    folder = tmp_path_factory.mktemp(request.param)
    hf = random_model(**SIZES[request.param])
    hf.save_pretrained(folder)
    return folder, hf


def watch(hf, seen):
    """Records what passes through HF's modules under the names of points.def; undone by remove()."""
    handles = []

    def arrives(module, point, block=0):
        def record(_, arguments, named):
            seen[point, block] = (arguments[0] if arguments else named["hidden_states"])[0]

        handles.append(module.register_forward_pre_hook(record, with_kwargs=True))

    def leaves(module, point, block=0):
        def record(_, arguments, result):
            seen[point, block] = (result[0] if isinstance(result, tuple) else result)[0]

        handles.append(module.register_forward_hook(record))

    body = hf.transformer
    leaves(body.wte, "embed")
    leaves(body.wpe, "pos_embed")
    leaves(body.drop, "embed_sum")
    for i, block in enumerate(body.h):
        arrives(block, "block_in", i)
        arrives(block.ln_1, "ln1_in", i)
        leaves(block.ln_1, "ln1_out", i)
        leaves(block.attn.c_attn, "qkv", i)
        arrives(block.attn.c_proj, "z", i)
        leaves(block.attn, "attn_out", i)
        arrives(block.ln_2, "mid", i)
        arrives(block.ln_2, "ln2_in", i)
        leaves(block.ln_2, "ln2_out", i)
        leaves(block.mlp.c_fc, "mlp_pre", i)
        leaves(block.mlp.act, "mlp_act", i)
        leaves(block.mlp, "mlp_out", i)
        leaves(block, "block_out", i)
    arrives(body.ln_f, "lnf_in")
    leaves(body.ln_f, "lnf_out")
    leaves(hf.lm_head, "logits")
    return handles


def steps_of_layernorm(seen, name, block, epsilon):
    """What lies between a layernorm's input and its output, from its input."""
    x = seen[f"{name}_in", block]
    scale = (x.var(-1, unbiased=False, keepdim=True) + epsilon).sqrt()
    seen[f"{name}_scale", block] = scale
    seen[f"{name}_norm", block] = (x - x.mean(-1, keepdim=True)) / scale


@torch.no_grad()
def expected(hf, ids, passes):
    """What activations() should find, as HF computes it."""
    found, past, cache = [], 0, transformers.DynamicCache(config=hf.config)
    for n in passes:
        seen = {}
        handles = watch(hf, seen)
        new = ids[past : past + n]
        hf(new[None], past_key_values=cache, use_cache=True)
        for handle in handles:
            handle.remove()
        seen["tokens", 0] = new[:, None]
        for i, layer in enumerate(cache.layers):
            q, k, v = seen["qkv", i].split(hf.config.n_embd, dim=1)
            seen["query", i], seen["key", i], seen["value", i] = q, k, v
            seen["scores", i] = seen["qkv", i]  # what they are made of
            seen["pattern", i] = q[:, :0]
            seen["result", i] = seen["z", i]
            for name in ("ln1", "ln2"):
                steps_of_layernorm(seen, name, i, hf.config.layer_norm_epsilon)
            seen["block_keys", i] = layer.keys[0].clone()
            seen["block_values", i] = layer.values[0].clone()
        steps_of_layernorm(seen, "lnf", 0, hf.config.layer_norm_epsilon)
        found.append({key: value.numpy() for key, value in seen.items()})
        past += n
    return found


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def check_activation(site, ours, theirs):
    """Its error as a share of what is allowed."""
    assert ours.shape == theirs.shape, site
    if site[0] == "tokens":
        return 0.0 if (ours == theirs).all() else np.inf
    if ours.size == 0:
        return 0.0
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    if site[0] == "logits":
        return np.abs(ours - theirs).max() / LOGITS_ERROR
    return relative(ours, theirs) / (RESIDUAL_ERROR if site[0] in RESIDUAL else OTHER_ERROR)


def points_of_table():
    """(point, is in each block) in the order of points.def; `generated` belongs to no pass."""
    table = (ROOT / "protocol" / "points.def").read_text()
    rows = re.findall(r"^(ONCE|EACH)\((\w+),", table, re.M)
    return [(point, kind == "EACH") for kind, point in rows if point not in ("next", "generated")]


@pytest.mark.parametrize("passes", PASSES, ids=str)
def test_every_activation_is_hf_s(model, passes):
    folder, hf = model
    ids = random_ids(hf, sum(passes))
    found = activations("sites", folder, ids, passes)
    worst = {}
    for ours, theirs in zip(found, expected(hf, ids, passes), strict=True):
        assert ours.keys() == theirs.keys()
        for site in ours:
            share = check_activation(site, ours[site], theirs[site])
            worst[site[0]] = max(share, worst.get(site[0], 0.0))
    print({point: f"{share:.3f}" for point, share in worst.items()})
    assert max(worst.values()) <= 1, worst


def test_sites_come_in_the_order_of_the_table(model):
    folder, hf = model
    found = activations("sites", folder, random_ids(hf, 3), [3])[0]
    table = points_of_table()
    first = [each for _, each in table].index(True)
    order = [(point, 0) for point, _ in table[:first]]
    for block in range(hf.config.n_layer):
        order += [(point, block) for point, each in table if each]
    order += [(point, 0) for point, each in table[first:] if not each]
    assert list(found) == order


@pytest.mark.parametrize("passes", PASSES[1:], ids=str)
def test_the_cache_changes_no_bit(model, passes):
    folder, hf = model
    ids = random_ids(hf, sum(passes))
    whole = activations("sites", folder, ids, [sum(passes)])[0]
    parts = activations("sites", folder, ids, passes)
    for site, value in whole.items():
        if site[0] in ("block_keys", "block_values"):
            joined = parts[-1][site]
        else:
            joined = np.concatenate([part[site] for part in parts])
        assert joined.tobytes() == value.tobytes(), site


@pytest.mark.parametrize("passes", PASSES[:2], ids=str)
def test_watching_changes_no_bit(model, passes):
    folder, hf = model
    ids = random_ids(hf, sum(passes))
    watched = activations("sites", folder, ids, passes)
    alone = activations("logits", folder, ids, passes)
    for one, other in zip(watched, alone, strict=True):
        assert one["logits", 0].tobytes() == other["logits", 0].tobytes()
