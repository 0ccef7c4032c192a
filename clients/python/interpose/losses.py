"""What is measured on saved values, in numpy."""
from __future__ import annotations

import numpy as np

from .values import as_array


def cross_entropy_loss(logits, tokens, shift=True):
    """The mean cross-entropy of a sequence in nats: mean over t of log(sum(exp(logits[t]))) minus
    logits[t, target[t]], in float64.

    Args:
        logits: (T, V) or (1, T, V), an array or tensor of floats: `.value` of `lm_head.output`.
        tokens: (T,) or (1, T) integers.
        shift: position t predicts token t + 1 (T - 1 terms); else tokens[t] is its target (T).

    Returns a float. Raises ValueError where the shapes do not belong together.

    >>> round(interpose.cross_entropy_loss([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 4)
    0.6931
    """
    logits, tokens = as_array(logits), as_array(tokens)
    if logits.ndim == 3 and len(logits) == 1:
        logits = logits[0]
    if tokens.ndim == 2 and len(tokens) == 1:
        tokens = tokens[0]
    if logits.ndim != 2 or tokens.ndim != 1 or len(logits) != len(tokens):
        raise ValueError("cross_entropy_loss takes logits (T, V) and tokens (T): not "
                         f"{logits.shape} and {tokens.shape}")
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers, not {tokens.dtype}")
    if shift:
        logits, tokens = logits[:-1], tokens[1:]
    if len(tokens) == 0:
        raise ValueError("cross_entropy_loss of no position: a shifted sequence needs two tokens")
    if tokens.min() < 0 or tokens.max() >= logits.shape[1]:
        raise ValueError(f"a token is outside the vocabulary of {logits.shape[1]}")
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((normalizer - logits[np.arange(len(tokens)), tokens]).mean())
