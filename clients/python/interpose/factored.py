"""Products of two matrices that are kept as their factors, as TransformerLens's FactoredMatrix."""
from __future__ import annotations

import functools

import numpy as np

from .finished import Value
from .values import is_number


def _swapped(x):
    return np.swapaxes(x, -2, -1)


class FactoredMatrix:
    """The matrix A @ B, of arrays A (..., l, m) and B (..., m, r), without its (l, r) numbers.

    `M @ x` and `x @ M` are again factored where x is a matrix; `M[...]` indexes as A @ B would be,
    but keeps rows and columns; `.U`, `.S`, `.V` are its singular value decomposition,
    U * S @ V transposed, `.eigenvalues` those that are not zero by its rank. `.AB` is the matrix.
    Arrays are fetched: inside a run A and B of `model.W_V[l, h]` multiply as they are.

    Raises ValueError where the factors do not belong together.

    >>> ov = interpose.FactoredMatrix(model.W_V[3, 1], model.W_O[3, 1])
    >>> ov.shape, ov.AB.shape, model.OV[3, 1].S.shape == (model.cfg.d_head,)
    ((256, 256), (256, 256), True)
    """

    __array_ufunc__ = None      # an array on the left leaves its operator to this

    def __init__(self, A, B):
        A, B = np.asarray(A), np.asarray(B)
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ValueError(f"factors of {A.shape} and {B.shape} are no matrices that multiply")
        try:
            leading = np.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        except ValueError:
            raise ValueError(f"factors of {A.shape} and {B.shape} do not broadcast") from None
        self.A, self.B = (np.broadcast_to(x, leading + x.shape[-2:]).view(Value) for x in (A, B))
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.shape = (*leading, self.ldim, self.rdim)
        self.ndim, self.pair = len(self.shape), (self.A, self.B)

    def __matmul__(self, other):
        if isinstance(other, FactoredMatrix):
            return self @ other.A @ other.B
        other = np.asarray(other)
        if other.ndim < 2:
            return (self.A @ (self.B @ other[:, None]))[..., 0]
        # Whichever has the smaller matrices in the middle.
        return (FactoredMatrix(self.A, self.B @ other) if self.rdim > self.mdim
                else FactoredMatrix(self.AB, other))

    def __rmatmul__(self, other):
        other = np.asarray(other)
        if other.ndim < 2:
            return (other[None] @ self.A @ self.B)[..., 0, :]
        return (FactoredMatrix(other @ self.A, self.B) if self.ldim > self.mdim
                else FactoredMatrix(other, self.AB))

    def __mul__(self, number):
        if np.ndim(number):
            raise ValueError("a factored matrix is multiplied by a number: not by an array of "
                             f"{np.shape(number)}, which M.AB is")
        return FactoredMatrix(self.A * number, self.B)

    __rmul__ = __mul__

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        at = next((i for i, item in enumerate(key) if item is Ellipsis), None)
        if at is not None:
            key = (*key[:at], *[slice(None)] * (self.ndim - len(key) + 1), *key[at + 1:])
        # A row or a column by its number stays a dimension.
        rows, columns = [slice(i, i + 1 or None) if is_number(i) else i for i in (
            *key[self.ndim - 2:], slice(None), slice(None))[:2]]
        leading = key[:self.ndim - 2]
        leading += (slice(None),) * (self.ndim - 2 - len(leading))
        return FactoredMatrix(self.A[(*leading, rows)], self.B[(*leading, slice(None), columns)])

    @property
    def T(self):
        """The last two dimensions transposed."""
        return FactoredMatrix(_swapped(self.B), _swapped(self.A))

    @property
    def AB(self):
        """The matrix, (..., l, r)."""
        return self.A @ self.B

    @property
    def BA(self):
        """The factors in the other order, (..., m, m)."""
        if self.ldim != self.rdim:
            raise ValueError(f"BA needs a square matrix: not {self.shape}")
        return self.B @ self.A

    @functools.cached_property
    def _svd(self):
        ua, sa, va = np.linalg.svd(self.A, full_matrices=False)
        ub, sb, vb = np.linalg.svd(self.B, full_matrices=False)
        middle = sa[..., :, None] * (va @ ub) * sb[..., None, :]
        um, sm, vm = np.linalg.svd(middle, full_matrices=False)
        return tuple(np.asarray(x).view(Value) for x in (ua @ um, sm, _swapped(vm @ vb)))

    def svd(self):
        """(U, S, V): (..., l, m), (..., m) and (..., r, m)."""
        return self._svd

    U = property(lambda self: self._svd[0], doc="The left singular vectors, in columns.")
    S = property(lambda self: self._svd[1], doc="The singular values, from the greatest on.")
    V = property(lambda self: self._svd[2], doc="The right singular vectors, in columns.")
    Vh = V      # TransformerLens's name of it

    @property
    def eigenvalues(self):
        """The eigenvalues of BA, which are those of AB but for zeros: complex (..., m)."""
        return np.linalg.eigvals(self.BA).view(Value)

    def norm(self):
        """The Frobenius norm of the last two dimensions."""
        return np.sqrt(np.square(self.S).sum(-1))

    def unsqueeze(self, k):
        """With a new leading dimension."""
        return FactoredMatrix(np.expand_dims(self.A, k), np.expand_dims(self.B, k))

    def __repr__(self):
        return f"<a factored matrix {self.shape}, through {self.mdim}>"
