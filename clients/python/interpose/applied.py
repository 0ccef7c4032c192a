"""A module of the model applied to a tensor: one op of the server, or what its parts make of it.

What is composed here has the bits of the model's own module, because the server promises that its
fused layers have those of their parts.
"""
from __future__ import annotations

import re

import numpy as np

from .activation_cache import aside
from .current import current_run, open_run
from .nested import Outputs
from .proxy import apply, proxy_of
from .spec import in_block
from .values import as_array


def applied(module, x):
    """What `module(x)` is: a proxy, or a tuple of one where the module returns a tuple."""
    if open_run(module._model) is None:     # of arrays: a request of its own
        return aside(module._model).values(lambda: applied(module, x))
    run = current_run(module._model)
    path = module._path
    same = _of_hugging_face(path)
    if same != path:    # TransformerLens's modules return tensors
        found = applied(module._model._root()._at(same), x)
        return found[0] if isinstance(found, tuple) else found
    generic = in_block(path, "*")
    if generic in run.spec.modules:
        return apply(run, "apply", [x, path])
    parts = _PARTS.get(generic)
    if parts is None:
        raise TypeError(f"{path or 'the model'} cannot be applied: the modules that can are "
                        + ", ".join(sorted({*run.spec.modules, *_PARTS})))
    return parts(module, proxy_of(run, x))


# TransformerLens's names of modules, as the beginnings and ends of Hugging Face's.
_OF_LENS = {r"^blocks\.": "transformer.h.", r"\.ln([12])$": r".ln_\1",
            "^ln_final$": "transformer.ln_f",
            "^unembed$": "lm_head", "^embed$": "transformer.wte", "^pos_embed$": "transformer.wpe"}


def _of_hugging_face(path):
    for theirs, ours in _OF_LENS.items():
        path = re.sub(theirs, ours, path)
    return path


def _mlp(mlp, x):
    return mlp.c_proj(mlp.act(mlp.c_fc(x)))


def _act(act, x):
    return apply(x._run, "gelu_new", [x])


def _dropout(drop, x):
    return x    # the model does not train


def _attention(attn, x):
    """Causal, over the rows of x alone: (..., T, D)."""
    config = attn._model.config
    shape, heads = x.shape, config.n_heads
    if len(shape) < 2:
        raise ValueError(f"{attn._path} takes (..., T, {config.width}), the rows of a sequence, "
                         f"not {shape}")
    width = config.width // heads
    q, k, v = (part.reshape((*shape[:-1], heads, width)).transpose(-2, -3)
               for part in attn.c_attn(x).split(config.width, -1))
    scale = np.float32(1) / np.sqrt(np.float32(width))
    causal = as_array(np.tril(np.ones((shape[-2], shape[-2]), bool)))
    scores = apply(x._run, "where", [causal, q @ k.mT * float(scale), -np.inf])
    mixed = (scores.softmax(-1) @ v).transpose(-2, -3).reshape(shape)
    return Outputs([attn.c_proj(mixed)], f"{attn._path}(x)", None)


def _block(block, x):
    middle = x + block.attn(block.ln_1(x))[0]
    return Outputs([middle + block.mlp(block.ln_2(middle))], f"{block._path}(x)", None)


def _embedding(module, ids):
    """Rows of the table, by ids of any shape."""
    rows = apply(ids._run, "index_select", [module.weight, 0, ids.reshape(-1)])
    return rows.reshape((*ids.shape, module._model.config.width))


_PARTS = {
    "transformer.wte": _embedding, "transformer.wpe": _embedding, "transformer.drop": _dropout,
    "transformer.h.*": _block, "transformer.h.*.attn": _attention, "transformer.h.*.mlp": _mlp,
    "transformer.h.*.mlp.act": _act,
}
