"""`with run.invoke():`, without a prompt: the prompts of all invokes of the run, those behind it
too, as one batch. Prompts of unequal length look left-padded, as several prompts of one invoke do.

More prompts may come when the block ends, so what it wrote is recorded, and written in its place
when the run's block ends.
"""
from __future__ import annotations

from .errors import user_place
from .graph import Index
from .recording import Recording
from .values import constant


class Everyone:
    """All prompts of a run, as the context of an invoke."""

    is_stopped = False
    index = None
    can_plan = False        # more prompts may come

    def __init__(self, run):
        self.run, self.place = run, user_place()
        self.steps, self.skipped, self.caches = {}, set(), []
        self._recording = self._marker = None
        self._is_written = False
        self._joined = {}       # (path, step) -> the hooks of the invokes, and the node of all

    def __enter__(self):
        self.run.enter_invoke(self)
        self._marker = self.run.graph.add("constant", [constant([0.0])], optional=True)
        self._recording = self.run.record(Recording())
        return self

    def __exit__(self, kind, exception, traceback):
        run = self.run
        run.leave_invoke(kind)
        if kind is not None:
            return
        run.end_record(self._recording)
        nodes = run.graph.nodes
        del nodes[nodes.index(self._marker) + 1:]
        self._recording.forget_items()
        run.everyone.append(self)

    def write(self):
        """Writes the block in its place: all prompts are known."""
        run, nodes = self.run, self.run.graph.nodes
        at = nodes.index(self._marker)
        behind = nodes[at + 1:]
        del nodes[at:]
        run.graph.renew()
        run.open_invoke, self._is_written, self.can_plan = self, True, True
        made = self._recording.replay(run)
        run.open_invoke = None
        run.graph.renew()
        nodes += behind
        for proxy in self._recording.proxies:
            proxy._move(made)

    @property
    def tokens(self):
        """The token ids of each prompt so far, as a list of 1-D int64 arrays."""
        return self.run.tokens

    # Hooks of all invokes as one tensor, and what is set there back in each.

    def hook(self, path, step, place=None):
        """The node of a place in all invokes."""
        if not self._is_written:
            return self.run.graph.hook(path, None, step, place)
        if (path, step) not in self._joined:
            parts = [invoke.hook(path, step, place) for invoke in self.run.invokes]
            self._joined[path, step] = parts, self._join(parts)
        return self._joined[path, step][1]

    def _join(self, parts):
        if len(parts) == 1:
            return parts[0]
        if len({max(map(len, invoke.tokens)) for invoke in self.run.invokes}) > 1:
            parts = self._padded(parts)
        return self.run.graph.add("cat", [parts, 0])

    def _padded(self, parts):
        graph, shapes = self.run.graph, [self.run.planned(part).shape for part in parts]
        widest = [max(sizes) for sizes in zip(*shapes)][1:]
        padded = []
        for part, shape in zip(parts, shapes):
            if list(shape[1:]) != widest:
                zero = graph.add("to", [0, part.dtype])
                wide = graph.add("clone", [graph.add("expand", [zero, [shape[0], *widest]])])
                graph.add("set", [self._part(wide, 0, shape, widest), part])
                part = wide
            padded.append(part)
        return padded

    def _part(self, whole, first, shape, widest):
        """The rows and the right ends that belong to one invoke."""
        ends = [{"slice": [size - n, None, None]} for n, size in zip(shape[1:], widest)]
        return self.run.graph.add(
            "getitem", [whole, Index([{"slice": [first, first + shape[0], None]}, *ends])],
            is_view=True)

    def spread(self, target):
        """A set of a tensor of all invokes, or of a view of one, is one of each invoke's."""
        while target.base is not None:
            target = target.base
        for parts, joined in self._joined.values() if self._is_written else ():
            if joined is target and len(parts) > 1:
                shapes = [self.run.planned(part).shape for part in parts]
                widest, first = [max(sizes) for sizes in zip(*shapes)][1:], 0
                for part, shape in zip(parts, shapes):
                    self.run.graph.add("set", [part, self._part(joined, first, shape, widest)])
                    first += shape[0]

    def replace(self, hook, value):
        """Another tensor in the place; the old one stays that of its names."""
        graph = self.run.graph
        if not self._is_written:
            return graph.replace(hook, value)
        key = next(key for key, (_, joined) in self._joined.items() if joined is hook)
        parts, _ = self._joined.pop(key)
        if len(parts) == 1:
            return graph.replace(hook, value)
        new = graph.add("clone", [hook])
        node = graph.add("set", [new, value])
        self._joined[key] = parts, new
        self.spread(new)
        return node
