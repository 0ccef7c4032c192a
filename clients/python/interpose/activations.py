"""Functions that torch has as functions only: activations and the norms of torch.linalg."""
from __future__ import annotations

import math

from .numeric import dims_of
from .proxy import as_proxy


def gelu(x, approximate="none"):
    """x times the normal distribution's share below x; approximate="tanh" is the form that GPT-2
    uses. Float32 of x's shape; raises ValueError for another `approximate`.

    >>> with model.trace("Hello"):
    ...     y = interpose.gelu(interpose.tensor([1.0])).save()
    >>> round(y.value.item(), 4)
    0.8413
    """
    x = as_proxy(x)
    if approximate == "tanh":
        return x.gelu_new()
    if approximate != "none":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh': not {approximate!r}")
    return x * 0.5 * ((x * math.sqrt(0.5)).erf() + 1)


def silu(x):
    """x * sigmoid(x), float32 of x's shape.

    >>> with model.trace("Hello"):
    ...     y = interpose.silu(interpose.tensor([0.0, 1.0])).save()
    >>> y.value.round(4).tolist()[0]
    0.0
    """
    x = as_proxy(x)
    return x * x.sigmoid()


def softplus(x, beta=1, threshold=20):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold. Float32 of
    x's shape.

    >>> with model.trace("Hello"):
    ...     y = interpose.softplus(interpose.tensor([100.0])).save()
    >>> y.value.item()
    100.0
    """
    x = as_proxy(x)
    scaled = x * beta
    return x._op("where", scaled > threshold, x, scaled.exp().log1p() / beta)


def logsigmoid(x):
    """log(sigmoid(x)), without underflow: float32 of x's shape.

    >>> with model.trace("Hello"):
    ...     y = interpose.logsigmoid(interpose.tensor([-200.0])).save()
    >>> y.value.item()
    -200.0
    """
    x = as_proxy(x)
    return x.minimum(0) - (-x.abs()).exp().log1p()


def dropout(x, p=0.5, training=True):
    """x itself, where nothing is trained: torch's dropout with training=False, or with p=0."""
    if training and p:
        raise ValueError("dropout with training=True draws at random what it zeroes: write "
                         "training=False, or x * (interpose.rand_like(x, seed=1) > p) / (1 - p)")
    return as_proxy(x)


def leaky_relu(x, negative_slope=0.01):
    """x where it is positive, else negative_slope * x: float32 of x's shape.

    >>> with model.trace("Hello"):
    ...     y = interpose.leaky_relu(interpose.tensor([-2.0, 3.0]), 0.5).save()
    >>> y.value.tolist()
    [-1.0, 3.0]
    """
    x = as_proxy(x)
    return x._op("where", x > 0, x, x * negative_slope)


def elu(x, alpha=1.0):
    """x where it is positive, else alpha * (exp(x) - 1): float32 of x's shape."""
    x = as_proxy(x)
    return x._op("where", x > 0, x, x.expm1() * alpha)


def hardtanh(x, min_val=-1.0, max_val=1.0):
    """x between two numbers: torch's hardtanh, and its relu6 from 0 to 6."""
    return as_proxy(x).clamp(min_val, max_val)


def softmin(x, dim):
    """softmax of -x over a dimension."""
    return (-as_proxy(x)).softmax(dim)


def vector_norm(x, ord=2, dim=None, keepdim=False):
    """torch.linalg.vector_norm: the norm of all elements, (), or over one or several dimensions,
    which are gone or with `keepdim` 1. Float32; `ord` is a number, infinities included.

    >>> with model.trace("Hello"):
    ...     y = interpose.vector_norm(interpose.tensor([3.0, -4.0]), 1).save()
    >>> y.value.item()
    7.0
    """
    return as_proxy(x).norm(ord, dim, keepdim)


def linalg_norm(x, ord=None, dim=None, keepdim=False, axis=None, keepdims=False):
    """torch.linalg.norm and numpy.linalg.norm: of vectors; of matrices only the Frobenius norm."""
    x, dim = as_proxy(x), dim if axis is None else axis
    dims = dims_of(x, dim)
    if ord not in (None, "fro") and len(dims) == 2:
        raise ValueError(f"norm: of a matrix only the Frobenius norm is offered, not {ord!r}: for "
                         "the norm of its elements use vector_norm")
    return x.norm(ord, dim, keepdim or keepdims)


def matrix_norm(x, ord="fro", dim=(-2, -1), keepdim=False):
    """torch.linalg.matrix_norm: linalg_norm of the last two dimensions."""
    return linalg_norm(x, ord, dim, keepdim)
