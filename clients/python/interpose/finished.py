"""What a saved proxy is once its run has ended: its value, for Python, numpy and torch."""
from __future__ import annotations

import math
import sys

import numpy as np


class Size(int):
    """An array's number of elements, which torch's users call."""

    def __new__(cls, array):
        self = super().__new__(cls, np.asarray(array).size)
        self._shape = array.shape
        return self

    def __call__(self, dim=None):
        return self._shape if dim is None else self._shape[dim]


class Value(np.ndarray):
    """A numpy array that torch's functions take too, with torch's names of keywords.

    A method that only torch has is done by torch, if torch is there.
    """

    def __repr__(self):
        return repr(np.asarray(self))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(*map(_to_torch, args), **{k: _to_torch(v) for k, v in (kwargs or {}).items()})

    def transpose(self, *axes):
        """Two dimensions change places, as torch's do; else numpy's."""
        return self.swapaxes(*axes) if len(axes) == 2 else super().transpose(*axes)

    def flatten(self, start_dim=0, end_dim=-1, order=None):
        """Dimensions start_dim to end_dim as one, as torch's; numpy's with an order."""
        if order or isinstance(start_dim, str):
            return super().flatten(order or start_dim)
        shape, dims = self.shape or (1,), range(max(self.ndim, 1))
        first, last = dims[start_dim], dims[end_dim] + 1
        return self.reshape((*shape[:first], math.prod(shape[first:last]), *shape[last:])).copy()

    def view(self, *shape, **kwargs):
        """The same elements in another shape; numpy's view, also as another type."""
        is_numpy_s = not shape or isinstance(shape[0], (type, np.dtype, str))
        return super().view(*shape, **kwargs) if is_numpy_s else self.reshape(*shape)

    # One element stays an array, which torch lets into its tensors: scores[layer, head] = x[0].

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return np.asarray(found).view(Value) if isinstance(found, np.generic) else found

    def __len__(self):
        if not self.ndim:   # torch.tensor([x, y]) asks for it, and shows this
            raise TypeError("a value without dimensions has no length: torch.stack([x, y]) makes "
                            "one tensor of several, and x.item() is a number")
        return super().__len__()

    def __hash__(self):
        if self.ndim:
            raise TypeError(f"an array of {self.shape} is unhashable")
        return hash(self.item())

    def __round__(self, digits=None):
        return round(self.item(), digits)

    @property
    def size(self):
        """The number of elements, as numpy's; called, torch's: the shape, or one dimension's."""
        return Size(self)

    def __getattr__(self, name):
        if name.startswith("_") or "torch" not in sys.modules:
            raise AttributeError(f"an array has no {name!r}")
        return getattr(_to_torch(self), name)


def _to_torch(x):
    if isinstance(x, (list, tuple)):
        return type(x)(map(_to_torch, x))
    x = getattr(x, "_as_value", lambda: x)()
    return sys.modules["torch"].from_numpy(np.asarray(x)) if isinstance(x, Value) else x


_KEYWORDS = {"dim": "axis", "keepdim": "keepdims", "dim1": "axis1", "dim2": "axis2"}


def _numpy_s(name):
    """A method of arrays that takes torch's `dim` and `keepdim` as well."""
    method = getattr(np.ndarray, name)

    def called(self, *args, **kwargs):
        if name in ("std", "var") and not kwargs.keys().isdisjoint(("dim", "keepdim", "unbiased",
                                                                    "correction")):
            unbiased = kwargs.pop("unbiased", True)     # torch's divide by n - 1 where not told
            kwargs["ddof"] = kwargs.pop("correction", int(unbiased))
        return method(self, *args, **{_KEYWORDS.get(k, k): v for k, v in kwargs.items()})
    called.__name__ = name
    return called


def _torch_s(name):
    """A method that is numpy's but for torch's `dim` and `descending`, with which it is torch's."""
    method = getattr(np.ndarray, name)

    def called(self, *args, **kwargs):
        is_torch_s = "torch" in sys.modules and not kwargs.keys().isdisjoint(("dim", "descending"))
        bound = getattr(_to_torch(self), name) if is_torch_s else method.__get__(self)
        return bound(*args, **kwargs)
    called.__name__ = name
    return called


for _name in ("max", "min", "sort", "argsort"):
    setattr(Value, _name, _torch_s(_name))
for _name in ("sum", "mean", "std", "var", "prod", "all", "any", "argmax", "argmin", "cumsum",
              "cumprod", "squeeze", "diagonal"):
    setattr(Value, _name, _numpy_s(_name))
