"""einops' patterns on proxies: `rearrange(x, "b t (h d) -> b h t d", h=12)`."""
from __future__ import annotations

import math
import re

from .proxy import apply, function, proxy_of
from .values import whole


def _side(text, pattern):
    """A side of a pattern as a list of groups of names; "..." stands for itself."""
    groups, group = [], None
    for token in re.findall(r"\.\.\.|…|[()]|[^\s().]+|\.", text.strip()):
        if token == "(":
            if group is not None:
                raise ValueError(f"{pattern!r}: brackets within brackets")
            group = []
        elif token == ")":
            if group is None:
                raise ValueError(f"{pattern!r}: a bracket is closed that was not opened")
            groups, group = [*groups, group], None
        else:
            token = "..." if token == "…" else token
            if token != "..." and not (token.isidentifier() or token.isdigit()):
                raise ValueError(f"{pattern!r}: {token!r} is no name of an axis")
            if group is None:
                groups.append([token])
            else:
                group.append(token)
    if group is not None:
        raise ValueError(f"{pattern!r}: a bracket is not closed")
    return groups


class _Pattern:
    """A pattern over a tensor of a shape: `left` and `right` are groups of axes, `sizes` theirs."""

    def __init__(self, pattern, shape, lengths):
        self.text = pattern
        left, arrow, right = pattern.partition("->")
        if not arrow or "->" in right:
            raise ValueError(f"{pattern!r} is not of the form 'a b -> b a'")
        self.left, self.right = _side(left, pattern), _side(right, pattern)
        self.sizes = {name: whole(n, name) for name, n in lengths.items()}
        self._expand(shape)
        for side in (self.left, self.right):
            names = [name for group in side for name in group if not name.startswith("#")]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{pattern!r}: {twice[0]!r} stands twice on one side")
        known = {name for group in [*self.left, *self.right] for name in group}
        unknown = set(lengths) - known
        if unknown:
            raise ValueError(f"{pattern!r} has no axis {min(unknown)!r}")
        for group, size in zip(self.left, shape):
            self._measure(group, size, shape)

    def _expand(self, shape):
        """Names for what `...` and numbers stand for."""
        n = sum(["..."] == group for group in self.left)
        inside = any("..." in group and len(group) > 1 for group in self.left)
        if n > 1 or inside:
            raise ValueError(f"{self.text!r}: '...' stands at most once on the left, outside of "
                             "brackets")
        missing = len(shape) - len(self.left) + n
        if missing < 0 or not n and missing:
            raise ValueError(f"{self.text!r}: {len(self.left) - n} axes for a tensor of shape "
                             f"{tuple(shape)}")
        wide = [f"...{i}" for i in range(missing)] if n else []
        if not n and any("..." in group for group in self.right):
            raise ValueError(f"{self.text!r}: '...' stands on the right only")
        self.left = [g for group in self.left
                     for g in ([[name] for name in wide] if group == ["..."] else [group])]
        self.right = [g for group in self.right
                      for g in ([[name] for name in wide] if group == ["..."] else
                                [[n for name in group
                                  for n in (wide if name == "..." else [name])]])]
        for mark, side in (("<", self.left), (">", self.right)):
            for i, group in enumerate(side):
                for j, name in enumerate(group):
                    if name.isdigit():
                        group[j] = f"#{mark}{i}.{j}"
                        self.sizes[group[j]] = int(name)

    def _measure(self, group, size, shape):
        """The sizes of a group's axes, of which one may be found from the others."""
        open_ = [name for name in group if name not in self.sizes]
        known = math.prod(self.sizes[name] for name in group if name in self.sizes)
        if len(open_) > 1:
            raise ValueError(f"{self.text!r}: the sizes of {' and '.join(open_)} are not known: "
                             f"give {open_[0]}=... or {open_[1]}=...")
        if open_ and known and size % known == 0:
            self.sizes[open_[0]] = size // known
        elif open_ or known != size:
            raise ValueError(f"{self.text!r}: an axis of {size} in {tuple(shape)} is no "
                             f"({' '.join(group)}), whose known sizes make {known}")

    def shape(self, names):
        return [self.sizes[name] for name in names]

    @property
    def before(self):
        return [name for group in self.left for name in group]

    @property
    def after(self):
        return [name for group in self.right for name in group]


def _tensor(run, x):
    """A tensor, or a list of them joined along a new first axis."""
    if isinstance(x, (list, tuple)) and any(hasattr(item, "shape") for item in x):
        return apply(run, "stack", [[proxy_of(run, item) for item in x], 0])
    return proxy_of(run, x)


def _only(names):
    """Without axes of size 1 that are written as 1: they are nobody's."""
    return [name for name in names if not name.startswith("#")]


def _apart(x, p):
    """x with an axis for each name of the left side."""
    return x if all(len(group) == 1 for group in p.left) else x.reshape(p.shape(p.before))


def _together(x, p, names):
    """x, whose axes are `names`, in the order and the groups of the right side."""
    after = _only(p.after)
    if names != after:
        x = x.permute([names.index(name) for name in after])
    if all(len(group) == 1 for group in p.right) and after == p.after:
        return x
    return x.reshape([math.prod(p.shape(group)) for group in p.right])


def _squeezed(x, p):
    """x, apart, without the axes that are written as 1, and the names of the others."""
    x, names = _apart(x, p), p.before
    if _only(names) != names:
        if any(p.sizes[name] != 1 for name in names if name.startswith("#")):
            raise ValueError(f"{p.text!r}: numbers other than 1 are reduced or repeated only")
        x = x.reshape(p.shape(_only(names)))
    return x, _only(names)


@function("x, 't d -> d t'")
def rearrange(run, tensor, pattern, **axes_lengths):
    """Axes in another order, split and joined as einops' patterns say; a list is stacked first."""
    x = _tensor(run, tensor)
    p = _Pattern(pattern, x.shape, axes_lengths)
    x, names = _squeezed(x, p)
    if set(names) != set(_only(p.after)):
        lost = sorted(set(names) ^ set(_only(p.after)))
        raise ValueError(f"{pattern!r}: {lost[0]!r} stands on one side only: reduce and repeat can "
                         "do that")
    if any(p.sizes[name] != 1 for name in p.after if name.startswith("#")):
        raise ValueError(f"{pattern!r}: numbers other than 1 are reduced or repeated only")
    return _together(x, p, names)


_REDUCTIONS = ("sum", "mean", "max", "min", "prod", "any", "all")


@function("x, 't d -> t', 'mean'")
def reduce(run, tensor, pattern, reduction, **axes_lengths):
    """As rearrange, over the axes that the right side leaves out: "sum", "mean", "max", "min",
    "prod", "any" or "all"."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduce offers {', '.join(_REDUCTIONS)}: not {reduction!r}")
    x = _tensor(run, tensor)
    p = _Pattern(pattern, x.shape, axes_lengths)
    names = p.before
    new = [name for name in _only(p.after) if name not in names]
    if new:
        raise ValueError(f"{pattern!r}: {new[0]!r} stands on the right only: repeat can do that")
    x = _apart(x, p)
    over = [i for i, name in enumerate(names) if name not in p.after]
    if over:
        if reduction in ("prod", "any", "all"):
            for dim in reversed(over):
                x = getattr(x, reduction)(dim=dim)
        else:
            x = getattr(x, {"max": "amax", "min": "amin"}.get(reduction, reduction))(dim=over)
    return _together(x, p, [name for name in names if name in p.after])


@function("x, 't d -> t 4 d'")
def repeat(run, tensor, pattern, **axes_lengths):
    """As rearrange, with new axes along which elements repeat: their sizes are given, or
    numbers."""
    x = _tensor(run, tensor)
    p = _Pattern(pattern, x.shape, axes_lengths)
    x, names = _squeezed(x, p)
    lost = [name for name in names if name not in p.after]
    if lost:
        raise ValueError(f"{pattern!r}: {lost[0]!r} stands on the left only: reduce can do that")
    new = [name for name in p.after if name not in names]
    open_ = [name for name in new if name not in p.sizes]
    if open_:
        raise ValueError(f"{pattern!r}: the size of {open_[0]!r} is not known: give {open_[0]}=...")
    order = [name for name in p.after if name in names]
    x = x if names == order else x.permute([names.index(name) for name in order])
    if new:
        x = x[tuple(slice(None) if name in names else None for name in p.after)]
        x = x.expand(p.shape(p.after))
    if all(len(group) == 1 for group in p.right):
        return x
    return x.reshape([math.prod(p.shape(group)) for group in p.right])
