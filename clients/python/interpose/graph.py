"""A request while it is being written: nodes in program order, and the form they travel in.

A node's arguments are other nodes or plain data. Indices are given only when the request is sent,
so that nodes can be left out (hooks that nobody used) or put in between.
"""
from __future__ import annotations

from typing import NamedTuple

from .errors import user_place
from .values import constant


# Ops that give a view or a copy, as the shape and dtype of their tensor have it.
MAY_COPY = {"reshape", "flatten", "to"}


class Node:
    """One row of the request's `nodes`."""

    # What most nodes have nothing of; a program makes thousands.
    replaced_by = None      # of a hook: the set that gave the module another value
    frozen = None           # what it was before that
    shape = dtype = None
    saves = ()              # the save nodes of this one
    value = None            # of a save, once it has arrived
    condition = None        # of a save: the save of whether it counts (see condition.py)
    skips = False           # of a set: whether it stands for a module that is left out
    missing = None          # of a save that is not sent: why, as half a sentence
    is_out = False          # of the graph, to be written again (see Graph.take_out)
    stands_for = None       # the node whose label it has
    text = None             # its label, once what it is made of is gone
    refusal = None          # what the server said of it, or of what it is made of (refuse)

    def __init__(self, op, args, kwargs=None, invoke=None, step=None, optional=False, base=None,
                 place=None):
        self.op, self.args, self.kwargs = op, args, kwargs or {}
        self.invoke, self.step = invoke, step
        self.optional = optional    # left out where nothing uses it
        self.base = base            # the node that this one is a view of
        self.place = place or user_place()

    def inputs(self):
        """The nodes among its arguments."""
        for arg in [*self.args, *self.kwargs.values()]:
            if isinstance(arg, Node):
                yield arg
            elif isinstance(arg, list):
                yield from (item for item in arg if isinstance(item, Node))

    def label(self, depth=2):
        """A text for people: "transformer.h.0.mlp.output", "add(lm_head.output, 1.0)"."""
        if self.text is not None:
            return self.text
        if self.stands_for is not None:
            return self.stands_for.label(depth)
        if self.op in ("hook", "parameter"):
            return self.args[0] + (f" at step {self.step}" if self.step else "")
        if depth == 0:
            return f"{self.op}(...)"
        args = [_label(a, depth - 1) for a in self.args]
        if self.op == "getitem":
            return args[0] + args[1]
        args += [f"{name}={_label(a, depth - 1)}" for name, a in self.kwargs.items()]
        return f"{self.op}({', '.join(args)})"


    def close(self):
        """Lets go of others, so that the values of each are freed with the names of that one: of
        what has a value its label is kept, and no node holds one that was made of it."""
        for save in self.saves:     # those that are not sent too
            save.args = []
        if self.saves and self.op != "hook":    # a hook is made of nothing
            self.text = self.label()
        if self.text is not None or self.op == "save":
            self.args, self.kwargs, self.base, self.stands_for = [], {}, None, None
        self.replaced_by = self.frozen = None


def _label(arg, depth):
    if isinstance(arg, Node):
        return arg.label(depth)
    if isinstance(arg, Index):
        return str(arg)
    if isinstance(arg, list):
        return "[" + ", ".join(_label(a, depth) for a in arg[:8]) + "]"
    if isinstance(arg, dict):
        return f"tensor{tuple(arg['shape'])}"
    return repr(arg)


class Index(list):
    """x[...] as the wire has it: integers, None, "..." and {"slice": [start, stop, step]}."""

    def __str__(self):
        return "[" + ", ".join(self._text(i) for i in self) + "]"

    @staticmethod
    def _text(item):
        if not isinstance(item, dict):
            return str(item)
        start, stop, step = ("" if bound is None else str(bound) for bound in item["slice"])
        return f"{start}:{stop}" + (f":{step}" if step else "")


class Start(NamedTuple):
    """Where a part of the graph begins."""

    node: Node
    hooks: dict     # the graph's, by then


def laid(x, point):
    """Nodes that copy a tensor of a hook point, the last of them the copy: it lies as the point's
    own does, so that what is a view of that, and no copy, is one of this."""
    nodes, given = [], x

    def add(op, *args, is_view=True):
        nodes.append(Node(op, [*args], optional=True, base=args[0] if is_view else None))
        return nodes[-1]
    x = add("transpose", x, 1, 2) if point.is_heads_first else x
    if point.is_third:
        x = add("stack", [x] * 3, 2, is_view=False)
        x = add("getitem", x, Index([*[{"slice": [0, None, None]}] * 2, 0]))
    else:
        x = add("clone", x, is_view=False)
    x = add("transpose", x, 1, 2) if point.is_heads_first else x
    x.stands_for = given
    return nodes


class Graph:
    """The nodes of one run."""

    def __init__(self, spec):
        self.spec, self.nodes = spec, []
        # (path, invoke, step) -> the nodes that stand for that place; the last is asked for, and
        # None where the next is to be another (see renew).
        self._hooks = {}
        self._parameters = {}   # path -> its node
        self.shared = {}        # the rows of all invokes as one -> what spreads what is set there
        self._spread = None, None   # the last node of the last such set, and what that changed

    def add(self, op, args, kwargs=None, optional=False, is_view=False):
        """Appends a node. Tensors among the arguments are nodes, or numbers and constants."""
        args = [self.used(a) for a in args]
        kwargs = {name: self.used(a) for name, a in (kwargs or {}).items()}
        base = args[0] if is_view and isinstance(args[0], Node) else None
        node = Node(op, args, kwargs, optional=optional, base=base)
        self.nodes.append(node)
        return node

    def hook(self, path, invoke, step, place=None):
        """The node that stands for a place of the model: one, however often it is asked for."""
        nodes = self._hooks.setdefault((path, invoke, step), [None])
        if nodes[-1] is None:
            nodes[-1] = Node("hook", [path], None, invoke, step, True, None, place)
            self.nodes.append(nodes[-1])
        return nodes[-1]

    def renew(self):
        """From here on hooks are nodes of their own, apart from those that were there before."""
        for nodes in self._hooks.values():
            if nodes[-1] is not None:
                nodes.append(None)

    def parameter(self, path):
        """The node of a parameter: one, however often it is asked for."""
        if path not in self._parameters:
            self._parameters[path] = Node("parameter", [path], optional=True)
            self.nodes.append(self._parameters[path])
        return self._parameters[path]

    def replace(self, hook, value, skips=False):
        """`module.output = value`: the place has another tensor from here on. `skips`: the module
        is left out.

        What a name was bound to before is the old tensor, as in Python: should it be used again,
        a copy is made in front of the set (see used).
        """
        if hook.replaced_by is not None:    # two names of one place: speak of what is there now
            hook = self.hook(hook.args[0], hook.invoke, hook.step)
        change = self.add("set", [hook, value])
        change.skips = skips
        for node in self._hooks.pop((hook.args[0], hook.invoke, hook.step)):
            if node is not None:
                node.replaced_by = change
        return change

    def used(self, arg):
        """What an argument stands for by now: itself, or what it was before it was replaced."""
        if isinstance(arg, list) and not isinstance(arg, Index):
            return [self.used(a) for a in arg]
        if not isinstance(arg, Node):
            return arg
        if arg.is_out:
            raise RuntimeError(f"{arg.label()} is of all prompts of the run, which are known when its "
                               "block ends: use it inside `with run.invoke():`, or behind the run")
        root = root_of(arg)
        return arg if root.replaced_by is None else self._freeze(arg, root.replaced_by)

    def _freeze(self, node, before):
        """What `node`, a hook or a view of one, was before the set `before`."""
        if node.frozen is None:
            if node.base is None:
                new = laid(node, self.spec.point_of(node.args[0]))
            elif node.op in MAY_COPY:
                new = [Node("clone", [node])]
            else:
                base = self._freeze(node.base, before)
                new = [Node(node.op, [base, *node.args[1:]], node.kwargs, base=base)]
            for each in new:
                each.place = node.place
            at = self.nodes.index(before)
            self.nodes[at:at] = new
            node.frozen = new[-1]
        return node.frozen

    def view_again(self, node, old, new):
        """The same view of `new` as `node` is of `old`."""
        if node is old:
            return new
        base = self.view_again(node.base, old, new)
        self.nodes.append(Node(node.op, [base, *node.args[1:]], node.kwargs, optional=True,
                               base=base, place=node.place))
        return self.nodes[-1]

    def ends_with_set_of(self, node):
        """Whether the last thing that the program did was to change this very node."""
        last = self.nodes[-1] if self.nodes else None
        spread, target = self._spread
        return last is not None and last.op == "set" and (
            target if last is spread else last.args[0]) is node

    def spread(self, target):
        """A set of a tensor of all invokes, or of a view of one, is one of each invoke's."""
        spread = self.shared.get(root_of(target))
        if spread is not None:
            spread()
            self._spread = self.nodes[-1], target

    def start(self):
        """The beginning of a part that will be taken out, and written again."""
        self.renew()
        marker = self.add("constant", [constant([0.0])], optional=True)
        return Start(marker, {place: [*nodes] for place, nodes in self._hooks.items()})

    def take_out(self, start):
        """Takes out what has been added since, but for parameters, which are anybody's."""
        at = self.nodes.index(start.node)
        behind = self.nodes[at + 1:]
        gone = {node for node in behind if node.op != "parameter"}
        self.nodes[at:] = [*(node for node in behind if node not in gone), start.node]
        self._hooks = start.hooks
        for node in gone:
            node.is_out = True
            self.shared.pop(node, None)
        for node in self.nodes:
            node.replaced_by = None if node.replaced_by in gone else node.replaced_by
            node.frozen = None if node.frozen in gone else node.frozen

    def take_behind(self, start):
        """Takes out what is behind that place, so that its part can be written there; gives what
        put_behind takes."""
        at = self.nodes.index(start.node)
        nodes, hooks = self.nodes[at + 1:], self._hooks
        del self.nodes[at:]
        behind = set(nodes)
        self._hooks = {place: [node for node in each if node not in behind]
                       for place, each in hooks.items() if each[0] not in behind}
        self.renew()
        return nodes, {place: [node for node in each if node in behind]
                       for place, each in hooks.items()}

    def put_behind(self, nodes, hooks):
        """Puts it behind what has been written since; what that has replaced is there what it was
        before, if its name is older. What it replaced itself it has seen to."""
        self.renew()
        self.nodes += nodes
        for place, each in hooks.items():
            self._hooks.setdefault(place, [None]).extend(each)
        behind = set(nodes)
        for node in nodes:
            node.args = [self._used_from(a, behind) for a in node.args]
            node.kwargs = {name: self._used_from(a, behind) for name, a in node.kwargs.items()}
            node.base = node.base and node.args[0]

    def _used_from(self, arg, behind):
        if isinstance(arg, list) and not isinstance(arg, Index):
            return [self._used_from(a, behind) for a in arg]
        is_itself = isinstance(arg, Node) and root_of(arg).replaced_by in behind
        return arg if is_itself else self.used(arg)

    def close(self):
        """The run is over."""
        for node in self.nodes:
            node.close()
        self.nodes, self._hooks, self._parameters, self.shared = [], {}, {}, {}
        self._spread = None, None

    def refuse(self, node, refusal):
        """The server has refused to plan a node, and the program may go on: that one and what is
        made of it, but for what is saved or set elsewhere, is left out where nothing uses it."""
        refused = set()
        for each in self.nodes:
            is_of_it = each is node or not refused.isdisjoint(each.inputs())
            if is_of_it and each.op != "save" and (
                    each.op != "set" or root_of(each.args[0]) in refused):
                refused.add(each)
                each.refusal = refusal

    def unplanned(self):
        """The nodes without a shape, and what they are made of: what is new since shapes were last
        asked for, so that each invoke of a long program is planned by itself."""
        wanted = ancestry([node for node in self.nodes
                           if node.shape is None and node.refusal is None])
        return [node for node in self.nodes if node in wanted]

    def needed(self):
        """The nodes that a run needs: all but optional and refused ones that nothing uses."""
        used, kept = set(), []
        for node in reversed(self.nodes):
            if (node.optional or node.refusal) and node not in used:
                continue
            used.update(node.inputs())
            kept.append(node)
        return kept[::-1]


def ancestry(nodes):
    """The set of nodes, and of all that they are made of."""
    seen, rest = set(nodes), [*nodes]
    while rest:
        rest += [node for node in rest.pop().inputs() if node not in seen and not seen.add(node)]
    return seen


def root_of(node):
    """What a node is a view of."""
    while node.base is not None:
        node = node.base
    return node


def _content(constant):
    return constant["dtype"], tuple(constant["shape"]), constant["tensor"]


def _flat(args):
    for arg in args:
        if isinstance(arg, list) and not isinstance(arg, Index):
            yield from arg
        else:
            yield arg


def with_constants(nodes):
    """The nodes behind one for each array that several of their arguments hold: it travels, and is
    stored, once."""
    times = {}
    for node in nodes:
        for arg in _flat([*node.args, *node.kwargs.values()]):
            if isinstance(arg, dict) and node.op != "constant":
                times.setdefault(_content(arg), []).append(arg)
    shared = [Node("constant", args[:1], optional=True) for args in times.values() if len(args) > 1]
    return shared + nodes


def largest_constant(nodes):
    """The node with the array that takes most of a request, and what that is; (None, "") if none."""
    arrays = [(len(arg["tensor"]), i, arg) for i, node in enumerate(nodes)
              for arg in _flat([*node.args, *node.kwargs.values()]) if isinstance(arg, dict)]
    if not arrays:
        return None, ""
    size, i, arg = max(arrays, key=lambda row: row[0])
    return nodes[i], (f"its largest tensor, {arg['dtype']} {tuple(arg['shape'])}, "
                      f"has {size} of them")


def _form(arg, index, shared):
    if isinstance(arg, dict) and _content(arg) in shared:
        return {"node": shared[_content(arg)]}
    if isinstance(arg, Node):
        return {"node": index[arg]}
    if isinstance(arg, list) and not isinstance(arg, Index):
        return [_form(a, index, shared) for a in arg]
    return arg


def wire(nodes):
    """`nodes` of the request."""
    index = {node: i for i, node in enumerate(nodes)}
    shared = {}     # of an array -> the constant that holds it, of those so far
    rows = []
    for i, node in enumerate(nodes):
        if node.op == "constant":
            shared.setdefault(_content(node.args[0]), i)
        args = node.args
        if node.op != "constant":
            args = [_form(a, index, shared) for a in args]
        row = {"op": node.op, "args": args}
        if node.kwargs:
            row["kwargs"] = {name: _form(a, index, shared) for name, a in node.kwargs.items()}
        if node.skips:
            row["kwargs"] = {**row.get("kwargs", {}), "skip": True}
        if node.invoke is not None:
            row["invoke"] = node.invoke
        if node.step is not None:
            row["step"] = node.step
        rows.append(row)
    return rows
