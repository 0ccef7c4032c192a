"""Products of matrices and vectors by torch's names."""
from __future__ import annotations

import numpy as np

from .proxy import apply, as_proxy, function, method, proxy_of
from .values import whole
from .views import distinct_dims


def _must_be(name, *pairs):
    """That tensors have these numbers of dimensions."""
    if any(x.ndim != n for x, n in pairs):
        raise ValueError(f"{name} takes tensors of {' and '.join(str(n) for _, n in pairs)} "
                         f"dimensions: not {' and '.join(str(x.shape) for x, _ in pairs)}")


@method("x, [1.0, 2.0, 3.0]")
def mv(x, vec):
    """A matrix with a vector."""
    vec = proxy_of(x._run, vec)
    _must_be("mv", (x, 2), (vec, 1))
    return x @ vec


@method("x[0], x[1]")
def dot(x, tensor):
    """The product of two vectors, one number."""
    tensor = proxy_of(x._run, tensor)
    _must_be("dot", (x, 1), (tensor, 1))
    return x @ tensor


@method("x[0], x[1]")
def outer(x, vec2):
    """Each element of a vector with each of another: a matrix."""
    vec2 = proxy_of(x._run, vec2)
    _must_be("outer", (x, 1), (vec2, 1))
    return x[:, None] * vec2


@method("x, x")
def inner(x, other):
    """Products over the last dimension of both."""
    other = proxy_of(x._run, other)
    return x.tensordot(other, ([-1], [-1])) if x.ndim and other.ndim else x * other


def vecdot(x, y, dim=-1):
    """torch.linalg.vecdot: the sum of products over a dimension."""
    return (as_proxy(x) * as_proxy(y)).sum(dim)


def numpy_dot(a, b):
    """numpy's dot: over the last dimension of a and the last but one of b; a number scales."""
    a, b = as_proxy(a), as_proxy(b)
    return a.tensordot(b, ([-1], [max(b.ndim - 2, 0)])) if a.ndim and b.ndim else a * b


@method("x, x.T, 1")
def tensordot(x, other, dims=2):
    """Products over the last `dims` dimensions of x and the first of the other, or over pairs of
    dimensions, ([of x], [of the other])."""
    other = proxy_of(x._run, other)
    if hasattr(dims, "__index__"):
        n = whole(dims, "dims")
        if not 0 <= n <= min(x.ndim, other.ndim):
            raise ValueError(f"tensordot over {n} dimensions of {x.shape} and {other.shape}")
        dims = list(range(x.ndim - n, x.ndim)), list(range(n))
    mine, theirs = distinct_dims(x, dims[0]), distinct_dims(other, dims[1])
    if [x.shape[d] for d in mine] != [other.shape[d] for d in theirs]:
        raise ValueError(f"tensordot over {mine} of {x.shape} and {theirs} of {other.shape}")
    rows = [d for d in range(x.ndim) if d not in mine]
    columns = [d for d in range(other.ndim) if d not in theirs]

    def sizes(tensor, some):
        return [tensor.shape[d] for d in some]

    def size(tensor, some):
        return int(np.prod(sizes(tensor, some), dtype=np.int64))
    a = x.permute([*rows, *mine]).reshape(size(x, rows), size(x, mine))
    b = other.permute([*theirs, *columns]).reshape(size(x, mine), size(other, columns))
    return (a @ b).reshape([*sizes(x, rows), *sizes(other, columns)])


@method("x")
def trace(x):
    """The sum of a matrix's diagonal."""
    _must_be("trace", (x, 2))
    return x.diagonal().sum()


def _added(x, product, beta, alpha):
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (x if beta == 1 else x * beta)


@method("x, x, x.T @ x")
def addmm(x, mat1, mat2, *, beta=1, alpha=1):
    """beta x + alpha (mat1 @ mat2), of matrices."""
    mat1, mat2 = proxy_of(x._run, mat1), proxy_of(x._run, mat2)
    _must_be("addmm", (mat1, 2), (mat2, 2))
    product = mat1 @ mat2
    return _added(x.expand(product.shape), product, beta, alpha)


@method("x[0, :2], x, x[1]")
def addmv(x, mat, vec, *, beta=1, alpha=1):
    """beta x + alpha (mat @ vec)."""
    product = proxy_of(x._run, mat).mv(vec)
    return _added(x.expand(product.shape), product, beta, alpha)


@method("x[None], x[None], (x.T @ x)[None]")
def baddbmm(x, batch1, batch2, *, beta=1, alpha=1):
    """beta x + alpha (batch1 @ batch2), of batches of matrices."""
    batch1, batch2 = proxy_of(x._run, batch1), proxy_of(x._run, batch2)
    _must_be("baddbmm", (batch1, 3), (batch2, 3))
    product = batch1 @ batch2
    return _added(x.expand(product.shape), product, beta, alpha)


@function("x, [[1.0, 2.0, 3.0]], [0.5]")
def linear(run, input, weight, bias=None):
    """input @ weight transposed, + bias."""
    input, weight = proxy_of(run, input), proxy_of(run, weight)
    product = apply(run, "matmul", [input, weight.mT if weight.ndim > 1 else weight])
    return product if bias is None else product + bias
