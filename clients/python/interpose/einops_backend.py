"""einops' own functions on proxies: einops asks a backend for the tensors that it does not know."""
from __future__ import annotations

import functools
import sys

from .einsum import einsum
from .proxy import Proxy, apply


def offer():
    """Makes einops, where a program has imported it, take proxies."""
    backends = sys.modules.get("einops._backends")
    if backends is not None:
        _backend(backends.AbstractBackend)


@functools.cache
def _backend(abstract):
    """The class, which einops finds among its abstract one's."""

    class Backend(abstract):
        """How einops does what it does, in torch's words."""

        framework_name = __package__

        def is_appropriate_type(self, tensor):
            return isinstance(tensor, Proxy)

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
            return einsum(pattern, *x)

    return Backend
