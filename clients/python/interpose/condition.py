"""`with tracer.cond(x > 0):` on a server that runs no Python: both ways are written, and values
choose.

What the block sets becomes a choice between the new and the old, element for element the same as if
the block had run or not. What it saves comes back together with the condition, and has no value
where that was false.
"""
from __future__ import annotations

from .proxy import Proxy, apply
from .values import tensor_of


class Condition:
    """A block that takes effect where a value of the run, one element, is true."""

    def __init__(self, run, condition, taken=None):
        self._run, self._condition, self._taken = run, condition, taken
        self._own = None        # True, False or a proxy of one bool, once the block has begun

    def __enter__(self):
        if self._own is not None:
            raise RuntimeError("a condition can be entered once: open another with "
                               "tracer.cond(...)")
        own = True if self._condition is None else _scalar(self._run, self._condition)
        if self._taken is not None:
            own = _both(_not(self._taken), own)
        self._own = own
        outer = self._run.condition
        self._run.conditions.append(_both(outer, own))
        return self

    def __exit__(self, *exception):
        self._run.conditions.pop()

    def else_(self, condition=None):
        """A block that takes effect where this one, and those before it, did not (and, if given,
        where another condition holds).

        >>> with model.trace("Hello") as tracer:
        ...     x = model.transformer.h[0].mlp.output
        ...     with tracer.cond(x.sum() > 1e9) as large:
        ...         x[:] = 0
        ...     with large.else_():
        ...         x[:] = 1
        ...     x = x.save()
        >>> float(x.value.min()), float(x.value.max())
        (1.0, 1.0)
        """
        if self._own is None:
            raise RuntimeError("else_() stands behind its block: `with tracer.cond(...) as c:` "
                               "first")
        taken = self._own
        if self._taken is not None:
            taken = _not(_both(_not(self._taken), _not(taken)))
        return Condition(self._run, condition, taken)


def _scalar(run, condition):
    """True, False, or a proxy of shape () and dtype bool."""
    condition = tensor_of(condition)
    if not isinstance(condition, Proxy) or condition._run is not run and condition._has_come():
        return bool(condition)
    if run.can_plan and condition.numel() != 1:
        raise ValueError(f"the condition of tracer.cond has {condition.numel()} elements, and must "
                         "have one: take its .any() or .all()")
    return apply(run, "to", [apply(run, "reshape", [condition, []]), "bool"])


def _not(x):
    return apply(x._run, "logical_not", [x]) if isinstance(x, Proxy) else not x


def _both(x, y):
    if x is False or y is False:
        return False
    if x is True or y is True:
        return y if x is True else x
    return apply(x._run, "logical_and", [x, y])
