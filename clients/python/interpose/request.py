"""What a run posts to its server, and what comes back: the plan of its shapes, and its values."""
from __future__ import annotations

import re

from . import graph as graphs
from .client import request_error
from .errors import NoValue, RequestError, ServerError, raise_in_place
from .progress import Progress
from .values import array_of, id_lists


class Request:
    """A run's side towards the server; Run has the graph, the invokes and the options of it."""

    def planned(self, node):
        """The node with its shape and dtype, as the server plans the request so far. What it
        refuses does not stand in the way of the rest, for a program that goes on."""
        if self.writer.open_invoke is not None:
            self.writer.open_invoke.ask(node)
        if node.refusal is not None:
            raise_in_place(RequestError(*node.refusal))
        if node.shape is None:
            if self._state == "done":
                raise NoValue(f"{node.label()} has no shape: the run has ended without its being "
                              "saved or its shape asked for")
            self.plan(self.graph.unplanned())
        return node

    def plan(self, nodes):
        """Gives nodes their shapes and dtypes; they come with all that they are made of."""
        if self.session is not None:
            self.session.plan(nodes)
            return
        nodes = graphs.with_constants(nodes)
        try:
            plan = self.model.client.ask("/v1/plan", self._request(nodes))
        except RequestError as e:
            refusal = self._located(e, nodes)
            if type(e.node) is int and 0 <= e.node < len(nodes):
                self.graph.refuse(nodes[e.node], refusal.args)
            raise_in_place(refusal)
        rows = plan.get("nodes")
        if not isinstance(rows, list) or len(rows) != len(nodes):
            raise ServerError("the server's plan is not of the request")
        for each, row in zip(nodes, rows):
            each.shape, each.dtype = tuple(row["shape"]), row["dtype"]

    def _request(self, nodes):
        return {"model": self.model.server_name, **self.trace_of(nodes),
                "nodes": graphs.wire(nodes)}

    def trace_of(self, nodes):
        """The request's prompts, and how they go on."""
        n_new = self._wanted_tokens(nodes)
        return {"invokes": [invoke.wire() for invoke in self.invokes],
                **self._options, "max_new_tokens": n_new,
                "min_new_tokens": min(n_new, self._options.get("min_new_tokens", 0))}

    def _wanted_tokens(self, nodes):
        """max_new_tokens, or no more than the nodes need where tracer.stop() ended every invoke."""
        if not self._is_stopped and not all(invoke.is_stopped for invoke in self.invokes):
            return self.max_new_tokens
        ours = {invoke.index for invoke in self.invokes}
        hooks = [node for node in nodes if node.op == "hook" and node.invoke in ours]
        last = max((node.step or 0 for node in hooks), default=0)
        samples = any(node.args[0].startswith("generator.") for node in hooks)
        return min(self.max_new_tokens, last + bool(last or samples))

    def _send(self):
        nodes = graphs.with_constants(self.graph.needed())
        n_saves = sum(node.op == "save" for node in nodes)
        n_arrived = 0
        try:
            with Progress(self._progress) as progress:
                for frame in self.model.client.stream("/v1/run", self._request(nodes)):
                    kind = frame and frame.get("type")
                    if kind == "head":
                        self._take_head(frame)
                        progress.text = f"running, {n_saves} values to come"
                    elif kind == "tensor":
                        self._take_tensor(frame, nodes)
                        n_arrived += 1
                        progress.text = (f"step {frame.get('step')} of {self.n_steps - 1}, "
                                         f"{n_arrived} of {n_saves} values")
                    elif kind == "absent":
                        n_arrived += 1
                    elif kind == "end":
                        self._reasons = frame.get("finish")
                        self._new_tokens = self._by_invoke(frame.get("generated"))
                        self.timing = frame.get("timing")
                    elif kind == "error":
                        raise request_error(frame, self.request_id)
        except RequestError as e:
            raise_in_place(self._located(e, nodes))

    def _take_head(self, frame):
        self.request_id = frame.get("request_id")
        for invoke, prompts in zip(self.invokes, self._by_invoke(frame.get("tokens"))):
            invoke.take_tokens(prompts)

    def _by_invoke(self, tokens):
        if not isinstance(tokens, list) or len(tokens) != len(self.invokes):
            raise ServerError("the server's reply is malformed: tokens of other prompts")
        return [id_lists(prompts) for prompts in tokens]

    def _take_tensor(self, frame, nodes):
        i = frame.get("node")
        if type(i) is not int or not 0 <= i < len(nodes) or nodes[i].op != "save":
            raise ServerError(f"the server sent a value that nobody saved: {frame.get('name')!r}")
        nodes[i].value = array_of(frame.get("dtype"), frame.get("shape"), frame.get("data"))

    def _located(self, error, nodes):
        """A refusal with the line of the node that it is about."""
        place = None
        message = error.message
        if error.code == "limit" and "--body-mb" in message:
            node, largest = graphs.largest_constant(nodes)
            place = node and node.place
            message += largest and f"; {largest}"
        if type(error.node) is int and 0 <= error.node < len(nodes):
            place = nodes[error.node].place
        place = place or self._place_of(error.path) or self._place
        return RequestError(error.code, message, error.path, error.node, error.request_id,
                            place)

    def _place_of(self, path):
        """The line of the invoke that a path of the request names."""
        invoke = re.match(r"invokes\[(\d+)\]", path or "")
        return self.invokes[int(invoke[1])].place if (
            invoke and int(invoke[1]) < len(self.invokes)) else None
