"""The methods of a proxy that compute values with torch's own conventions; what has none is an op
of the table as it stands, and found there by its name."""
from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from .values import at_dim, whole


# The methods that torch has with a "_" behind their names too, for x to become what they give.
IN_PLACE = frozenset("""
    abs absolute add addcdiv addcmul asin acos atan atan2 arcsin arccos arctan arctan2
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
    bitwise_xor ceil clamp clamp_max clamp_min clip cos cumprod cumsum div divide eq erf exp exp2
    expm1 fix floor floor_divide fmod frac ge greater greater_equal gt le lerp less less_equal log
    log10 log1p log2 logical_and logical_not logical_or logical_xor lt mul multiply
    nan_to_num ne neg negative not_equal pow reciprocal relu remainder round rsqrt scatter
    scatter_add index_add index_copy index_fill index_put tril triu sigmoid sign sin sqrt square
    sub subtract tan tanh true_divide trunc""".split())


class Extremes(NamedTuple):
    """What x.max(dim), x.sort() and their like give, named as torch names it."""
    values: "Proxy"
    indices: "Proxy"

    def save(self):
        """Asks for both tensors, as a proxy's save."""
        return Extremes(self.values.save(), self.indices.save())


def spelled(method):
    """`method` with numpy's names of its parameters too: axis and keepdims."""
    @functools.wraps(method)
    def also(self, *args, **kwargs):
        kwargs = {{"axis": "dim", "keepdims": "keepdim"}.get(k, k): v for k, v in kwargs.items()}
        return method(self, *args, **kwargs)
    return also


def dims_of(x, dim, rank=None):
    """`dim` as a list of dimensions (of x's, or of `rank`) counted from the front; all of x's for
    None.

    Raises IndexError for a dimension that does not exist.
    """
    if dim is None:
        return list(range(x.ndim))
    rank, found = max(x.ndim if rank is None else rank, 1), []
    for d in dim if isinstance(dim, (tuple, list)) else [dim]:
        d = whole(d, "dim")
        if not -rank <= d < rank:
            raise IndexError(f"dimension {d} is out of range for {x.shape}, whose dimensions are "
                             f"{-rank} to {rank - 1}")
        found.append(d % rank)
    return found


class Numeric:
    """Mixed into Proxy, which has _op(name, *args): an op of the table."""

    __slots__ = ()

    # Arithmetic.

    def add(self, other, alpha=1):
        """self + alpha * other."""
        return self._op("add", self, other if alpha == 1 else self._op("mul", other, alpha))

    def sub(self, other, alpha=1):
        """self - alpha * other."""
        return self._op("sub", self, other if alpha == 1 else self._op("mul", other, alpha))

    subtract = sub

    def div(self, other, rounding_mode=None):
        """self / other, in float32; with rounding_mode "floor" or "trunc" rounded so, and then of
        integers an integer."""
        if rounding_mode is None:
            return self._op("div", self, other)
        if rounding_mode == "floor":
            return self._op("floor_divide", self, other)
        if rounding_mode != "trunc":
            raise ValueError(f"div: rounding_mode is None, 'floor' or 'trunc': not "
                             f"{rounding_mode!r}")
        rest = self._op("fmod", self, other)
        exact = self._op("floor_divide", self._op("sub", self, rest), other)
        return exact if exact.dtype.kind != "f" else self._op("div", self, other).trunc()

    divide = true_divide = div

    def frac(self):
        """What trunc() takes away: x - trunc(x)."""
        if self.dtype.kind != "f":
            raise TypeError(f"frac of {self.dtype} is not defined: it takes float32")
        return self - self.trunc()

    def lerp(self, end, weight):
        """From self to `end` by `weight`: self + weight * (end - self), exact at both ends."""
        way = self._op("sub", end, self)
        from_start = self + way * weight
        from_end = self._op("sub", end, way * self._op("sub", 1, weight))
        near = self._op("lt", self._op("abs", weight), 0.5)
        return self._op("where", near, from_start, from_end)

    def logaddexp(self, other):
        """log(exp(self) + exp(other)) without overflow."""
        most = self._op("maximum", self, other)
        sum_ = most + (-(self - other).abs()).exp().log1p()
        return self._op("where", self._op("eq", self, other), most + math.log(2), sum_)

    def clamp(self, min=None, max=None):
        """Between min and max, numbers or tensors, of which one may be left out."""
        if min is None and max is None:
            raise ValueError("clamp needs min or max")
        # Of equals, 0.0 and -0.0, these give the second, as torch does x.
        result = self if min is None else self._op("maximum", min, self)
        return result if max is None else self._op("minimum", max, result)

    clip = clamp

    def clamp_min(self, min):
        """Not below min."""
        return self.clamp(min=min)

    def clamp_max(self, max):
        """Not above max."""
        return self.clamp(max=max)

    def nan_to_num(self, nan=0.0, posinf=None, neginf=None):
        """NaN and the infinities replaced by numbers: the infinities, where nothing is said, by the
        greatest and the least float32."""
        if self.dtype.kind != "f":
            return self.clone()
        most = float(np.finfo(np.float32).max)
        x = self._op("where", self.isnan(), 0.0 if nan is None else float(nan), self)
        x = self._op("where", self == math.inf, most if posinf is None else float(posinf), x)
        return self._op("where", self == -math.inf, -most if neginf is None else float(neginf), x)

    def logit(self, eps=None):
        """log(x / (1 - x)), with eps of x held between eps and 1 - eps."""
        x = self if eps is None else self.clamp(eps, 1 - eps)
        return (x / (1 - x)).log()

    def addcmul(self, tensor1, tensor2, value=1):
        """self + value * tensor1 * tensor2."""
        return self + self._op("mul", tensor1, tensor2) * value

    def addcdiv(self, tensor1, tensor2, value=1):
        """self + value * tensor1 / tensor2."""
        return self + self._op("div", tensor1, tensor2) * value

    def xlogy(self, other):
        """self * log(other), 0 where self is 0."""
        product = self._op("mul", self, self._op("log", other))
        is_none = (self == 0) & self._op("logical_not", self._op("isnan", other))
        return self._op("where", is_none, 0.0, product)

    def sinh(self):
        """The hyperbolic sine."""
        return (self.expm1() - (-self).expm1()) / 2

    def cosh(self):
        """The hyperbolic cosine."""
        return (self.exp() + (-self).exp()) / 2

    def erfc(self):
        """1 - erf(x), with the digits that are left."""
        return 1 - self.erf()

    def heaviside(self, values):
        """0 below zero, 1 above it, and `values` at it."""
        return self._op("where", self == 0, values, self > 0)

    def isclose(self, other, rtol=1e-05, atol=1e-08, equal_nan=False):
        """Whether |self - other| <= atol + rtol * |other|, or both are the same infinity, or, with
        equal_nan, both are NaN."""
        other = self._op("clone", other)
        near = ((self - other).abs() <= other.abs() * rtol + atol) & other.isfinite()
        same = near | (self == other)
        return same | (self.isnan() & other.isnan()) if equal_nan else same

    def allclose(self, other, rtol=1e-05, atol=1e-08, equal_nan=False):
        """Whether all elements are close, as isclose says: one bool."""
        return self.isclose(other, rtol, atol, equal_nan).all()

    def equal(self, other):
        """Whether shape and all elements are equal: one bool. Element by element it is x == y."""
        other = self._op("clone", other)
        if tuple(self.shape) != tuple(other.shape):
            return self._op("clone", False)
        return (self == other).all()

    def round(self, decimals=0):
        """Rounded to this many digits behind the point (or, negative, before it), halves to
        even."""
        if decimals == 0:
            return self._op("round", self)
        if self.dtype.kind != "f":
            raise TypeError(f"round of {self.dtype} to digits is not defined: it takes float32")
        scale = 10.0 ** abs(whole(decimals, "decimals"))
        return (self * scale).round() / scale if decimals > 0 else (self / scale).round() * scale

    def diff(self, n=1, dim=-1):
        """The differences of neighbours in a dimension, n times over."""
        x, at = self, dims_of(self, dim)[0]
        for _ in range(whole(n, "n")):
            x = x[at_dim(at, slice(1, None))] - x[at_dim(at, slice(None, -1))]
        return x

    # Reductions.

    @spelled
    def max(self, dim=None, keepdim=False):
        """The greatest element; with dim, the pair (values, indices); with a tensor, maximum."""
        return self._extreme("max", "argmax", "maximum", dim, keepdim)

    @spelled
    def min(self, dim=None, keepdim=False):
        """The least element; with dim, the pair (values, indices); with a tensor, minimum."""
        return self._extreme("min", "argmin", "minimum", dim, keepdim)

    def _extreme(self, op, arg_op, pairwise, dim, keepdim):
        if dim is None:
            return self._op(op, self)
        if hasattr(dim, "_op") or getattr(dim, "ndim", 0):
            return self._op(pairwise, self, dim)
        if isinstance(dim, (tuple, list)):
            raise TypeError(f"{op} over several dimensions has no indices: use a{op}")
        return Extremes(self._op(op, self, dim, keepdim or None),
                        self._op(arg_op, self, dim, keepdim or None, optional=True))

    @spelled
    def amax(self, dim=None, keepdim=False):
        """The greatest elements over one or several dimensions, without indices."""
        return self._op("max", self, dim, keepdim)

    @spelled
    def amin(self, dim=None, keepdim=False):
        """The least elements over one or several dimensions, without indices."""
        return self._op("min", self, dim, keepdim)

    @spelled
    def any(self, dim=None, keepdim=False):
        """Whether some element is not zero; of no elements False."""
        return (self != 0).sum(dim, keepdim) != 0

    @spelled
    def all(self, dim=None, keepdim=False):
        """Whether no element is zero; of no elements True."""
        return (self == 0).sum(dim, keepdim) == 0

    @spelled
    def nansum(self, dim=None, keepdim=False):
        """The sum over dimensions of what is not NaN."""
        return self._op("where", self.isnan(), 0, self).sum(dim, keepdim)

    @spelled
    def nanmean(self, dim=None, keepdim=False):
        """The mean over dimensions of what is not NaN."""
        return self.nansum(dim, keepdim) / self.isnan().logical_not().sum(dim, keepdim)

    @spelled
    def count_nonzero(self, dim=None):
        """How many elements are not zero."""
        return (self != 0).sum(dim)

    @spelled
    def norm(self, p="fro", dim=None, keepdim=False):
        """The p-norm of the elements, or over dimensions: sum(|x| ** p) ** (1 / p), for p = 0 how
        many are not zero, for infinities the greatest or the least |x|."""
        if p in ("fro", None, 2):
            return self._op("norm", self, dim, keepdim)
        if not isinstance(p, (int, float)):
            raise ValueError(f"norm: p is a number or 'fro': not {p!r}")
        size = self._op("abs", self)
        if p == math.inf:
            return size.amax(dim, keepdim)
        if p == -math.inf:
            return size.amin(dim, keepdim)
        if p == 0:
            return (size != 0).sum(dim, keepdim).float()
        if p == 1:
            return size.sum(dim, keepdim)
        return (size ** float(p)).sum(dim, keepdim) ** (1 / p)

    @spelled
    def var(self, dim=None, unbiased=None, keepdim=False, *, correction=None):
        """The variance over one or several dimensions (all, if none is given): squares of the
        differences from the mean, by their number less `correction`, which is 1, or 0 where
        `unbiased` is False."""
        return self.var_mean(dim, unbiased, keepdim, correction=correction)[0]

    @spelled
    def std(self, dim=None, unbiased=None, keepdim=False, *, correction=None):
        """The standard deviation: the root of var with the same arguments."""
        return self.var(dim, unbiased, keepdim, correction=correction).sqrt()

    @spelled
    def var_mean(self, dim=None, unbiased=None, keepdim=False, *, correction=None):
        """var and mean, a pair."""
        if isinstance(dim, bool):   # torch's var(x, unbiased)
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        shape, dims = self.shape or (1,), dims_of(self, dim)
        count = math.prod(shape[d] for d in dims) if self.shape else 1
        mean = self._op("mean", self, dim, True)
        squares = (self - mean).square().sum(dim, keepdim)
        return squares / max(count - correction, 0), self._op("mean", self, dim, keepdim)

    @spelled
    def std_mean(self, dim=None, unbiased=None, keepdim=False, *, correction=None):
        """std and mean, a pair."""
        var, mean = self.var_mean(dim, unbiased, keepdim, correction=correction)
        return var.sqrt(), mean

    # Order.

    @spelled
    def topk(self, k, dim=-1, largest=True, sorted=True):
        """The k greatest (or least) elements of a dimension, in order whatever `sorted` is: the
        pair (values, indices). Of equals the first comes first; NaN is the greatest of all."""
        del sorted
        return Extremes(self._op("topk_values", self, k, dim, largest),
                        self._op("topk_indices", self, k, dim, largest, optional=True))

    @spelled
    def sort(self, dim=-1, descending=False, stable=True):
        """The elements of a dimension in order and where they were: the pair (values, indices).
        Equals keep their order whatever `stable` is; NaN is the greatest of all."""
        del stable
        if self.dtype.kind == "b":
            values, indices = self.long().sort(dim, descending)
            return Extremes(values.bool(), indices)
        size = self.shape[dims_of(self, dim)[0]] if self.shape else 1
        return self.topk(size, dim, largest=bool(descending))

    @spelled
    def argsort(self, dim=-1, descending=False, stable=True):
        """Where the elements of a dimension are in their order: the indices of sort."""
        return self.sort(dim, descending, stable).indices

    @spelled
    def kthvalue(self, k, dim=-1, keepdim=False):
        """The k-th least element of a dimension, counted from 1: the pair (values, indices)."""
        x, at = self if self.shape else self[None], dims_of(self, dim)[0]
        k = whole(k, "k")
        place = self._op("topk_indices", x, k, at, False)[at_dim(at, slice(k - 1, k))]
        return self._chosen(x, at, place, keepdim)

    @spelled
    def quantile(self, q, dim=None, keepdim=False):
        """The number below which the part q of the elements lies, 0 <= q <= 1, between two elements
        in proportion; NaN where there is one. Takes one number q."""
        if dim is None:
            shape = (1,) * self.ndim if keepdim else ()
            return self.flatten().quantile(q, 0).reshape(shape)
        if not 0 <= q <= 1:
            raise ValueError(f"quantile: q is from 0 to 1: it is {q}")
        x, at = self if self.shape else self[None], dims_of(self, dim)[0]
        if self.dtype.kind != "f":
            raise TypeError(f"quantile of {self.dtype} is not defined: it takes float32")
        place = q * (x.shape[at] - 1)
        order = x._op("topk_values", x, math.ceil(place) + 1, at, False)
        low, high = (order[at_dim(at, slice(i, i + 1))] for i in (int(place), math.ceil(place)))
        value = low.lerp(high, place - int(place))
        wrong = x.isnan().any(at, keepdim=True)
        value = self._op("where", wrong, math.nan, value)
        return value if keepdim and self.shape else value.squeeze(at)

    def _chosen(self, x, at, place, keepdim):
        values = self._op("gather", x, at, place)
        if keepdim and self.shape:
            return Extremes(values, place)
        return Extremes(values.squeeze(at), place.squeeze(at))

    @spelled
    def median(self, dim=None, keepdim=False):
        """The median, of an even number the lower one, NaN where there is one; with dim, the pair
        (values, indices)."""
        if dim is None:
            some = self.numel() > 0
            return self.flatten().median(0).values if some else self.sum() * math.nan
        at = dims_of(self, dim)[0]
        size = self.shape[at] if self.shape else 1
        if size == 0:
            raise IndexError(f"median over dimension {dim} of {self.shape}, which has no elements")
        x = self if self.shape else self[None]
        middle = (size - 1) // 2
        place = self._op("topk_indices", x, middle + 1, at, False)
        place = place[at_dim(at, slice(middle, None))]
        if self.dtype.kind == "f":
            wrong = x.isnan().any(at, keepdim=True)
            place = self._op("where", wrong, x.argmax(at, keepdim=True), place)
        return self._chosen(x, at, place, keepdim)
