"""einops' and fancy_einsum's own functions on proxies: they ask a backend for the tensors that they
do not know."""
from __future__ import annotations

import functools
import importlib

import numpy as np

from .einsum import einsum
from .finished import Value
from .proxy import Finished, Proxy, apply
from .values import tensor_of


@functools.cache
def offer():
    """Makes einops and fancy_einsum, where they are installed, take proxies, also those that a
    program imports when its runs are over. Returns the classes, which each finds among its own."""
    found = []
    for name in ("einops._backends", "fancy_einsum"):
        try:
            found += _backends(importlib.import_module(name))
        except ImportError:
            pass
    return found


def _backends(theirs):

    class Backend(theirs.AbstractBackend):
        """How einops does what it does, in torch's words."""

        framework_name = __package__

        def is_appropriate_type(self, tensor):
            return hasattr(tensor, "_as_tensor") or (
                isinstance(tensor, Proxy) and not isinstance(tensor, Finished))

        def shape(self, x):
            return tuple(x.shape)

        def transpose(self, x, axes):
            return x.permute(*axes)

        def reduce(self, x, operation, axes):
            if operation in ("prod", "any", "all"):
                for dim in sorted(axes, reverse=True):
                    x = getattr(x, operation)(dim=dim)
                return x
            named = {"max": "amax", "min": "amin"}.get(operation, operation)
            return getattr(x, named)(dim=tuple(axes))

        def stack_on_zeroth_dimension(self, tensors):
            return apply(tensors[0]._run, "stack", [list(tensors)])

        def add_axis(self, x, new_position):
            return x.unsqueeze(new_position)

        def tile(self, x, repeats):
            return x.repeat(*repeats)

        def concat(self, tensors, axis):
            return apply(tensors[0]._run, "cat", [list(tensors), axis])

        def is_float_type(self, x):
            return x.dtype.kind == "f"

        def einsum(self, pattern, *x):
            x = [tensor_of(each) for each in x]
            if any(isinstance(each, Proxy) for each in x):
                return einsum(pattern, *x)
            return np.einsum(pattern, *x).view(Value)   # of parameters outside of runs

    class OfValues(theirs.NumpyBackend):
        """How it does that behind the run: numpy's functions take saved proxies."""

        framework_name = Value.__module__

        def is_appropriate_type(self, tensor):
            return isinstance(tensor, Finished)

        def to_numpy(self, x):
            return x.value

    return Backend, OfValues
