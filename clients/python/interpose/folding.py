"""TransformerLens's numbers: what its processed weights compute where Hugging Face's compute
otherwise.

from_pretrained folds the layernorms' gains and biases into the weights behind them, centres what is
written to the residual stream and the unembedding, and moves the values' biases into the
attention's output. The model stays the same function up to a shift of all logits, but some of what
is inside it differs: the residual stream and what is added to it lacks its mean, v and z lack the
values' bias, and logits lack theirs. Queries, keys, scores, patterns, the MLP's inside, scales and
probabilities are equal.
"""
from __future__ import annotations

from .spec import block_of

NUMERICS = ("hf", "transformer_lens")

_CENTRED = {"hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post",
            "hook_attn_out", "hook_mlp_out"}


def centred(x):
    """Without the mean over the last dimension."""
    return x - x.mean(-1, keepdim=True)


def value_bias(model, block):
    """(H, dh): what TransformerLens takes out of a block's values, in a run."""
    attn = model.blocks[block].attn
    return attn.b_V + model.blocks[block].ln1.b @ attn.W_V


def folded(model, name, x):
    """The tensor that TransformerLens has at its hook point, from the one that the model has."""
    part = name.rpartition(".")[2]
    if part in _CENTRED:
        return centred(x)
    if part in ("hook_v", "hook_z"):
        return x - value_bias(model, block_of(name))
    if part == "hook_result":
        bias = value_bias(model, block_of(name))[:, None]
        return centred(x - (bias @ model.blocks[block_of(name)].attn.W_O)[:, 0])
    if name == "unembed.hook_out":
        return centred(x)
    return x


def unfolded(model, name, new, x):
    """What the model gets where TransformerLens's would get `new` in the place of folded(x)."""
    part = name.rpartition(".")[2]
    if part in ("hook_v", "hook_z"):
        return new + value_bias(model, block_of(name))
    if part in _CENTRED or name == "unembed.hook_out":
        return new + x.mean(-1, keepdim=True)
    return new


def accumulated_bias(model, layer, mlp_input=False, include_mlp_biases=True):
    """(D): what attention's and the MLPs' biases in front of a block add to the residual stream, in
    a run; with `mlp_input` that block's attention's too."""
    is_folded, total = model.numerics == "transformer_lens", model.ln_final.b * 0
    for i in range(layer + mlp_input):
        total = total + model.blocks[i].attn.b_O
        if is_folded:
            total = total + (value_bias(model, i)[:, None] @ model.blocks[i].attn.W_O).sum((0, 1))
    for i in range(layer if include_mlp_biases else 0):
        total = total + model.blocks[i].mlp.b_out
    return centred(total) if is_folded else total
