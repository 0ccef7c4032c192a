"""The server's own tables, as GET /v1/spec gives them: which ops and which hook points exist.

Nothing of them is copied into this package but the ops' names and parameters (ops.json), so that
`interpose.softmax` exists before a server has been asked; a test holds the two together.
"""
from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional


class Param(NamedTuple):
    """A parameter of an op."""

    name: str
    kind: str       # tensor, tensors, int, ints, bool, index, dtype, path, text
    optional: bool


class Op(NamedTuple):
    """A row of the table of ops."""

    name: str
    kind: str               # unary, binary, view, call, effect
    types: Optional[str]    # of unary and binary: same, number, real, bits, whole, compare
    params: List[Param]

    @classmethod
    def of(cls, row):
        """The op of a row of GET /v1/spec or of ops.json."""
        params = [Param(p["name"], p["kind"], bool(p.get("optional"))) for p in row["params"]]
        return cls(row["name"], row["kind"], row.get("types"), params)


class Point(NamedTuple):
    """A hook point, of all blocks at once."""

    path: str       # "transformer.h.*.output[0]": * is a block's number
    shape: str      # "(B, T, D)"
    writable: bool
    point: str      # the same for all names of a place
    row: str        # "3D": from one token's elements to the next one's; "none" where it has none

    @property
    def is_heads_first(self):
        """Whether positions lie in front of heads, and are shown behind them."""
        return self.shape.startswith("(B, H, T, D")

    @property
    def is_third(self):
        """Whether a third of each row is shown: queries, keys or values."""
        return self.row == "3D" and "H" in self.shape


class Parameter(NamedTuple):
    """A parameter of the model, of all blocks at once."""

    path: str       # "transformer.h.*.ln_1.weight"
    shape: str      # "(D,)"


_BLOCK = re.compile(r"\.(-?\d+)(?=\.|$)")


def block_of(path):
    """The number of the block that a path leads into, or None: 3 of "blocks.3.hook_resid_pre"."""
    found = _BLOCK.search(path)
    return None if found is None else int(found[1])


def in_block(path, block):
    """The same place in another block; "*" gives the path that the server's tables have."""
    return _BLOCK.sub(f".{block}", path, count=1)


class Branch:
    """A module of the tree: its submodules, and its places that hold tensors.

    `leaves["output"]` is a Point, or a tuple (nested) of Points where paths end in [0], [1][0];
    `leaves["weight"]` is a Parameter.
    A list of blocks has one child, "*".
    """

    def __init__(self):
        self.children: Dict[str, Branch] = {}
        self.leaves: Dict[str, object] = {}
        self._places: Dict[str, list] = {}

    def places(self, name):
        """The names of a leaf's points: output[0], output[1][0], ... where it is a nested tuple."""
        if name not in self._places:
            self._places[name] = list(_places(name, self.leaves[name]))
        return self._places[name]

    @property
    def is_list(self):
        """Whether it is the list of blocks."""
        return "*" in self.children

    def names(self):
        """What can be written behind a dot."""
        return sorted(self.children) + sorted(self.leaves)


def _places(name, leaf):
    if isinstance(leaf, Point):
        yield name
    else:
        for i, each in enumerate(leaf):
            yield from _places(f"{name}[{i}]", each)


def tree_of(points):
    """The module tree that the paths of hook points and parameters spell."""
    root, nested = Branch(), []
    for point in points:
        dotted, suffix = re.fullmatch(r"([^\[\]]+)((?:\[\d+\])*)", point.path).groups()
        *modules, leaf = dotted.split(".")
        branch = root
        for name in modules:
            branch = branch.children.setdefault(name, Branch())
        if suffix:
            places = [int(i) for i in re.findall(r"\d+", suffix)]
            leaves = branch.leaves.setdefault(leaf, {})
            for i in places[:-1]:
                leaves = leaves.setdefault(i, {})
            leaves[places[-1]] = point
            nested.append((branch, leaf))
        else:
            branch.leaves[leaf] = point
    for branch, leaf in nested:
        branch.leaves[leaf] = _tuple_of(branch.leaves[leaf])
    return root


def _tuple_of(leaves):
    if isinstance(leaves, dict):
        return tuple(_tuple_of(leaves[i]) for i in sorted(leaves))
    return leaves


class Spec:
    """GET /v1/spec: the ops by name and the tree of hook points."""

    def __init__(self, document):
        self.ops = {row["name"]: Op.of(row) for row in document["ops"]}
        self.refused = document.get("refused", {})
        self._points = {row["path"]: Point(*map(row.get, Point._fields))
                        for row in document["points"]}
        self.tree = tree_of([
            *self._points.values(),
            *(Parameter(row["path"], row["shape"]) for row in document["parameters"])])
        self.points = [*self._points]
        self.modules = set(document["modules"])     # that can be applied, by path with a *

    def point_of(self, path):
        """The Point of a path, in whichever block."""
        return self._points.get(path) or self._points[in_block(path, "*")]

    def place_of(self, path):
        """What all names of one place have in common: (point, block)."""
        return self.point_of(path).point, block_of(path)


# numpy's and torch's own names for parameters that the table calls otherwise.
_KEYWORDS = {"axis": "dim", "axes": "dims", "keepdims": "keepdim", "other": "y", "input": "x",
             "self": "x", "condition": "mask", "arrays": "tensors", "size": "shape"}


def bind(op, args, kwargs):
    """The parameters that a call gives, by name; TypeError where they are not the op's."""
    takes = f"{op.name}({', '.join(p.name + '=...' * p.optional for p in op.params)})"
    if len(args) > len(op.params):
        raise TypeError(f"{takes} takes {len(op.params)} arguments: {len(args)} are given")
    given = {param.name: value for param, value in zip(op.params, args)}
    known = {param.name for param in op.params}
    for name, value in kwargs.items():
        name = name if name in known else _KEYWORDS.get(name, name)
        if name not in known:
            raise TypeError(f"{takes} has no parameter {name!r}")
        if name in given:
            raise TypeError(f"{takes} is given {name!r} twice")
        given[name] = value
    for param in op.params:
        value = given.get(param.name)
        if param.optional and value is None:
            given.pop(param.name, None)
        elif param.name not in given:
            raise TypeError(f"{takes} needs {param.name!r}")
    return given
