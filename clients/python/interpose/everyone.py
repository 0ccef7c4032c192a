"""`with run.invoke():`, without a prompt: the prompts of all invokes of the run, those behind it
too, as one batch. Prompts of unequal length look left-padded, as several prompts of one invoke do.

The block is written for the prompts so far, so that its shapes are known. Since more prompts may
come it is taken out when it ends, and written again in its place when the run's block ends.
"""
from __future__ import annotations

from .errors import user_place
from .graph import Index, ancestry, laid, root_of
from .recording import Recording


class Everyone:
    """All prompts of a run, as the context of an invoke."""

    is_stopped = False
    index = None
    can_plan = False        # a shape may be known, but then no more prompts may come

    def __init__(self, run):
        self.run, self.place = run, user_place()
        self.steps, self.skipped, self.caches = {}, set(), []
        self._recording = self._start = None
        self._asked = None      # a node of all prompts whose shape was asked for
        self._shown = {}        # (path, step) -> the node of a place's rows of all invokes
        self._wholes = {}       # each of these -> (point, block, step), the nodes of each invoke

    def __enter__(self):
        self.run.enter_invoke(self)
        self._start = self.run.graph.start()
        self._recording = self.run.record(Recording())
        return self

    def __exit__(self, kind, exception, traceback):
        run = self.run
        run.leave_invoke(kind)
        if kind is not None:
            return
        run.end_record(self._recording)
        run.graph.take_out(self._start)
        self._shown, self._wholes = {}, {}
        self._recording.forget_items()
        run.everyone.append(self)

    def write(self):
        """Writes the block in its place: all prompts are known."""
        run = self.run
        behind = run.graph.take_behind(self._start)
        run.open_invoke = self
        made = self._recording.replay(run)
        run.open_invoke = None
        run.graph.put_behind(*behind)
        for proxy in self._recording.proxies:
            proxy._move(made)

    def await_prompt(self):
        """Another prompt comes; RuntimeError where the block holds to those so far."""
        if self._asked is not None:
            raise RuntimeError(f"`with run.invoke():`, from {self.place}, asked for the shape of "
                               f"{self._asked.label()}, which is of all prompts: write them in "
                               "front of it")

    @property
    def tokens(self):
        """The token ids of each prompt so far, as a list of 1-D int64 arrays."""
        return self.run.tokens

    def ask(self, node):
        """The shape of a node is asked for: where it is one of all prompts, no more may come."""
        if not self.run.invokes:
            raise RuntimeError(f"the shape of {node.label()} is of all prompts of the run, which has "
                               "none yet: write them in front of `with run.invoke():`")
        if self._asked is None and any(each in self._wholes for each in ancestry([node])):
            self._asked = node

    # Hooks of all invokes as one tensor, and what is set there back in each.

    def hook(self, path, step, place=None):
        """The node of a place in all invokes."""
        if not self.run.invokes:
            return self.run.graph.hook(path, None, step, place)
        if (path, step) not in self._shown:
            parts = [invoke.hook(path, step, place) for invoke in self.run.invokes]
            whole = self._shown[path, step] = self._whole(parts)
            self._wholes[whole] = (*self.run.spec.place_of(path), step), parts
            self.run.graph.shared[root_of(whole)] = lambda: self._spread(whole)
        return self._shown[path, step]

    def step_of(self, hook):
        """The step of a node that `hook` gave."""
        return self._wholes[hook][1][0].step if self.run.invokes else hook.step

    @property
    def _is_padded(self):
        return len({len(tokens) for tokens in self.tokens}) > 1

    def _shapes(self, parts):
        """The parts' shapes; of prompts of one length the first size, which is all that differs."""
        if self._is_padded:
            if parts[0].shape is None:
                self.run.plan(parts)
            return [part.shape for part in parts]
        return [(len(invoke.tokens),) for invoke in self.run.invokes]

    def _whole(self, parts):
        """A new tensor of the parts' rows, which lies as the point's own."""
        whole, nodes = self._join(parts), self.run.graph.nodes
        point = self.run.spec.point_of(parts[0].args[0])
        if point.is_heads_first or point.is_third:
            nodes += laid(whole, point)
            whole = nodes[-1]
        whole.stands_for = parts[0]
        return whole

    def _join(self, parts):
        shapes = self._shapes(parts)
        padded = [self._padded(*each, _widest(shapes)) for each in zip(parts, shapes)]
        return self.run.graph.add("cat", [padded, 0], optional=True)

    def _padded(self, part, shape, widest):
        graph, dtype, sizes = self.run.graph, part.dtype, list(shape)
        for dim, most in enumerate(widest, 1):
            if sizes[dim] < most:
                zero = graph.add("to", [0, dtype], optional=True)
                missing = [*sizes[:dim], most - sizes[dim], *sizes[dim + 1:]]
                zeros = graph.add("expand", [zero, missing], optional=True)
                part, sizes[dim] = graph.add("cat", [[zeros, part], dim], optional=True), most
        return part

    def _ends(self, whole, parts):
        """Of each invoke its rows of a node, without what is in front of the longest of them."""
        shapes, first = self._shapes(parts), 0
        for n, *sizes in shapes:
            ends = [{"slice": [most - size, None, None]}
                    for size, most in zip(sizes, _widest(shapes))]
            index = Index([{"slice": [first, first + n, None]}, *ends])
            yield self.run.graph.add("getitem", [whole, index], optional=True, is_view=True)
            first += n

    def _spread(self, whole):
        """A set of a tensor of all invokes is one of each invoke's: of a new tensor, since a set of
        one that was read at a later place would wait for that. All names of its place show it,
        where the padding is 0."""
        graph, (place, parts) = self.run.graph, self._wholes[whole]
        change = graph.nodes.pop()
        new = self._whole(parts)
        change.args[0] = graph.view_again(change.args[0], whole, new)
        graph.nodes.append(change)
        for part, end in zip(parts, self._ends(new, parts)):
            graph.add("set", [part, end])
        for each, (its_place, its_parts) in self._wholes.items():
            if its_place == place:
                graph.add("set", [each, self._join(its_parts)])

    def replace(self, hook, value, skips):
        """Another tensor in the place of each invoke; the old ones stay those of their names."""
        graph = self.run.graph
        if not self.run.invokes:
            return graph.replace(hook, value, skips)
        new = value
        if not skips:
            new = graph.add("clone", [hook])
            graph.add("set", [new, value])
        place, parts = self._wholes[hook]
        for part, end in zip(parts, [*self._ends(new, parts)]):
            node = graph.replace(part, end, skips)
        for old, (its_place, _) in [*self._wholes.items()]:
            if its_place == place:
                del self._wholes[old], graph.shared[root_of(old)]
        self._shown = {key: each for key, each in self._shown.items() if each in self._wholes}
        return node


def _widest(shapes):
    return [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes))]
