"""Directions of the residual stream that raise the logits of tokens, in TransformerLens's way."""
from __future__ import annotations

import numpy as np

from .values import as_array


def ids_of(model, tokens):
    """Ids as an array, from a text of one token, a list of such texts, an id or ids."""
    if isinstance(tokens, str):
        return np.array(model.to_single_token(tokens))
    if isinstance(tokens, (list, tuple)) and tokens and all(isinstance(t, str) for t in tokens):
        return np.array([model.to_single_token(t) for t in tokens])
    ids = as_array(tokens)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"tokens are ids or texts of one token: not {tokens!r:.60}")
    return ids


def residual_directions(model, tokens, less=None):
    """A proxy of (..., D) for tokens (...), in a run: the unembedding's rows, times the last
    layernorm's gain; less those of the tokens `less`, where these are given."""
    ids = ids_of(model, tokens)
    weight, gain = model.lm_head.weight, model.transformer.ln_f.weight
    directions = weight[ids.reshape(-1)]
    if less is not None:
        others = ids_of(model, less)
        if others.shape != ids.shape:
            raise ValueError(f"incorrect_tokens have another shape than tokens: {others.shape} and "
                             f"{ids.shape}")
        directions = directions - weight[others.reshape(-1)]
    elif model.numerics == "transformer_lens":
        directions = directions - weight.mean(0)
    return (directions * gain).reshape((*ids.shape, model.config.width))
