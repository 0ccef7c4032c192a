"""What is measured on logits: on saved values in numpy, on proxies by the server."""
from __future__ import annotations

import numpy as np

from .functions import FUNCTIONS
from .proxy import Proxy
from .values import as_array, tensor_of


def cross_entropy_loss(logits, tokens, shift=True):
    """The mean cross-entropy of a sequence in nats: mean over t of log(sum(exp(logits[t]))) minus
    logits[t, target[t]].

    Of values it is computed here, in float64. Of proxies, inside a run, it is computed by the
    server in float32, where the logits never exist as a whole: save it, and one number travels.

    Args:
        logits: (T, V) or (1, T, V), an array or tensor of floats (`.value` of `lm_head.output`);
            or a proxy, also (B, T, V): the mean is over all sequences then.
        tokens: (T,) or (1, T) integers, for a proxy of logits (B, T) too. They may be a proxy:
            `model.transformer.wte.input` holds the prompt's own.
        shift: position t predicts token t + 1 (T - 1 terms); else tokens[t] is its target (T).

    Returns a float, or a proxy of one number. Raises ValueError where the shapes do not belong
    together, or where prompts of several lengths would have their padding counted; a token outside
    the vocabulary of a proxy is a RequestError.

    >>> round(interpose.cross_entropy_loss([[0.0, 0.0], [0.0, 0.0]], [0, 1]), 4)
    0.6931
    >>> with model.trace("The Eiffel Tower is in Paris"):
    ...     loss = interpose.cross_entropy_loss(model.lm_head.output,
    ...                                         model.transformer.wte.input).save()
    >>> loss.value.shape
    ()
    """
    logits, tokens = map(tensor_of, (logits, tokens))
    if isinstance(logits, Proxy) or isinstance(tokens, Proxy):
        return _by_the_server(logits, tokens, shift)
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


def _by_the_server(logits, tokens, shift):
    if not isinstance(tokens, Proxy):
        tokens = as_array(tokens)
    rows, places = tuple(logits.shape[:-1]), tuple(tokens.shape)
    if places != rows and (1,) + places == rows:    # (T) beside (1, T, V)
        tokens, places = tokens[None], rows
    if not 2 <= len(logits.shape) <= 3 or places != rows:
        raise ValueError("cross_entropy_loss takes logits (T, V) and tokens (T), or (B, T, V) and "
                         f"(B, T): not {tuple(logits.shape)} and {tuple(tokens.shape)}")
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers, not {tokens.dtype}")
    _refuse_padding(logits if isinstance(logits, Proxy) else tokens, rows)
    if shift:
        logits, tokens = logits[..., :-1, :], tokens[..., 1:]
    if rows[-1] - bool(shift) < 1:
        raise ValueError("cross_entropy_loss of no position: a shifted sequence needs two tokens")
    return negative_log_probs(logits, tokens).mean()


def _refuse_padding(proxy, rows):
    """ValueError where the mean over rows (B, T) would be one of padding too."""
    invoke = proxy._run.open_invoke
    if len(rows) < 2 or rows[0] < 2 or invoke is None:
        return
    lengths = sorted({len(ids) for ids in invoke.tokens})
    if len(lengths) > 1 and rows[-1] == lengths[-1]:
        raise ValueError(f"the prompts differ in length ({', '.join(map(str, lengths))} tokens), "
                         "and their padding would count: write an invoke for each")


def negative_log_probs(logits, tokens):
    """How unlikely logits (..., V) make the tokens (...), in nats: (...), computed by the
    server."""
    right = FUNCTIONS["gather"](logits, -1, tokens[..., None])
    return (FUNCTIONS["logsumexp"](logits, -1, keepdim=True) - right).squeeze(-1)
