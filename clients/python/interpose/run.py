"""The contexts: `with model.generate(...) as generator: with generator.invoke(prompt): ...`.

Nothing runs until the outer block has ended without an exception; then one request is posted, and
the saved values are filled in as they arrive.
"""
from __future__ import annotations

import collections.abc
import contextvars

import numpy as np

from . import graph as graphs
from .client import request_error
from .errors import NoValue, RequestError, ServerError, raise_at, user_place
from .progress import Progress
from .values import array_of, as_array, id_lists, whole

_current = contextvars.ContextVar("interpose_run", default=None)


def current_run(model=None):
    """The innermost run that is being written here (of a model)."""
    run = _current.get()
    while run is not None and model is not None and run.model is not model:
        run = run.outer
    if run is None:
        raise RuntimeError("there is no run here: write it inside `with model.trace(prompt):`")
    return run


class Run:
    """One request, from the `with` that opens it to its values.

    Attributes, after the block: `request_id`, `timing` (seconds: queue, run) and `finish_reasons`
    (of each sequence "stop" or "length").
    """

    def __init__(self, model, options, progress, prompt=None):
        self.model, self.spec = model, model.spec
        self.max_new_tokens = options["max_new_tokens"]
        self.n_copies = options.get("sampling", {}).get("n", 1)
        self._options = options     # the request's fields beside invokes and nodes
        self.graph = graphs.Graph()
        self.invokes = []
        self.open_invoke = None
        self.request_id = self.timing = self.finish_reasons = None
        self.outer = None
        self._progress = progress
        self._implicit = None if prompt is None else Invoke(self, prompt)
        self._state = "new"
        self._new_tokens = None     # of each invoke, of each prompt
        self._place = user_place()

    @property
    def n_steps(self):
        """Passes through the model: one, or one for each new token."""
        return max(1, self.max_new_tokens)

    @property
    def is_open(self):
        """Whether the block is still being written."""
        return self._state == "open"

    # The contexts.

    def __enter__(self):
        if self._state != "new":
            raise RuntimeError("a run can be entered once: open another with model.trace(...)")
        self._state, self.outer = "open", _current.get()
        _current.set(self)
        if self._implicit is not None:
            self._implicit.__enter__()
        return self

    def __exit__(self, kind, exception, traceback):
        _current.set(self.outer)
        self.open_invoke = None
        if kind is not None:
            self._state = "abandoned"
            return
        self._state = "failed"
        if not self.invokes:
            raise ValueError("this run has no prompt: open an invoke, "
                             "`with run.invoke(prompt):`, or give the prompt to trace(...)")
        self._send()
        self._state = "done"

    def invoke(self, prompt, **unsupported):
        """Adds a prompt: hooks inside `with run.invoke(prompt):` see its rows only.

        `prompt` is a text, a list of texts, token ids as a list or a 1-D array, several rows of
        ids of one length as a list of lists or a 2-D array, or {"input_ids": ...} of these.
        All invokes of a run go through the model together.

        Raises TypeError for anything else.

        >>> with model.trace() as tracer:
        ...     with tracer.invoke("Hello") as invoker:
        ...         logits = model.lm_head.output.save()
        >>> logits.value.shape == (1, len(invoker.tokens[0]), model.config.vocab)
        True
        """
        if unsupported:
            raise TypeError(f"invoke() has no parameter {next(iter(unsupported))!r}: it takes the "
                            "prompt only")
        if self._implicit is not None:
            raise RuntimeError("this run has its prompt from trace(prompt) or generate(prompt): "
                               "leave it out there to use invoke(prompt)")
        return Invoke(self, prompt)

    # What belongs to the run as a whole.

    @property
    def output(self):
        """The ids of each sequence, prompt and generated, in the order of the prompts: after the
        run it reads as a list of 1-D int64 arrays."""
        return Generated(self)

    @property
    def tokens(self):
        """The token ids of each prompt, of all invokes, as a list of 1-D int64 arrays."""
        return [tokens for invoke in self.invokes for tokens in invoke.tokens]

    def sequences(self):
        """What `output` holds, or NoValue."""
        if self._new_tokens is None:
            raise NoValue(f"the generated tokens have no value: {self.why_no_value()}")
        return [np.concatenate([tokens, new])
                for invoke, news in zip(self.invokes, self._new_tokens)
                for tokens, new in zip(invoke.tokens, news)]

    def why_no_value(self):
        """Why a saved value is not there, as half a sentence."""
        return {
            "new": "the run has not begun",
            "open": "it arrives when the `with` block of the run ends",
            "abandoned": "an exception ended the block, so nothing was run",
            "failed": "the run failed",
            "done": "the generation ended before its step",
        }[self._state]

    # Writing the graph.

    def add(self, op, args, kwargs=None, **facts):
        """Adds a node, while the run is open."""
        self._check_open()
        return self.graph.add(op, args, kwargs, **facts)

    def hook(self, path, step):
        """The node of a hook point in the invoke that is open."""
        self._check_open()
        if self.open_invoke is None:
            raise RuntimeError(f"{path} belongs to a prompt: use it inside "
                               "`with run.invoke(prompt):`")
        return self.graph.hook(path, self.open_invoke.index, step)

    def replace(self, hook, value):
        """`module.output = value`; nothing where Python says it after `module.output += v`."""
        self._check_open()
        if value is not hook or not self.graph.ends_with_set_of(hook):
            self.graph.replace(hook, value)

    def _check_open(self):
        if not self.is_open:
            raise RuntimeError("this run's block has ended, and nothing can be added to it: use "
                               ".value for what was saved, or open another run")

    # Talking to the server.

    def planned(self, node):
        """The node with its shape and dtype, as the server plans the request so far."""
        if node.shape is None:
            nodes = list(self.graph.nodes)
            try:
                plan = self.model.client.ask("/v1/plan", self._request(nodes))
            except RequestError as e:
                self._raise(e, nodes)
            rows = plan.get("nodes")
            if not isinstance(rows, list) or len(rows) != len(nodes):
                raise ServerError("the server's plan is not of the request")
            for each, row in zip(nodes, rows):
                each.shape, each.dtype = tuple(row["shape"]), row["dtype"]
        return node

    def _request(self, nodes):
        return {
            "model": self.model.server_name,
            "invokes": [{"prompt": invoke.prompt} for invoke in self.invokes],
            **self._options,
            "nodes": graphs.wire(nodes),
        }

    def _send(self):
        nodes = self.graph.needed()
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
                        self.finish_reasons = sum(frame.get("finish") or [], [])
                        self._new_tokens = self._by_invoke(frame.get("generated"))
                        self.timing = frame.get("timing")
                    elif kind == "error":
                        raise request_error(frame, self.request_id)
        except RequestError as e:
            self._raise(e, nodes)

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

    def _raise(self, error, nodes):
        """Raises a refusal at the line of the node that it is about."""
        place = None
        if type(error.node) is int and 0 <= error.node < len(nodes):
            place = nodes[error.node].place
        elif (error.path or "").startswith("invokes["):
            i = error.path[len("invokes["):].partition("]")[0]
            if i.isdigit() and int(i) < len(self.invokes):
                place = self.invokes[int(i)].place
        raise_at(RequestError(error.code, error.message, error.path, error.node, error.request_id,
                              place or self._place), place or self._place)


class Invoke:
    """One prompt of a run, as a context: hooks inside it see this prompt's rows."""

    def __init__(self, run, prompt):
        self.run = run
        self.prompt = prompt_of(prompt)
        self.index = None
        self.steps = {}     # module path -> how often .next() has moved it on
        self.place = user_place()
        self._tokens = None

    def __enter__(self):
        self.run._check_open()
        if self.run.open_invoke is not None:
            raise RuntimeError("another invoke of this run is open: end it first")
        if self.index is not None:
            raise RuntimeError("an invoke can be entered once")
        self.index = len(self.run.invokes)
        self.run.invokes.append(self)
        self.run.open_invoke = self
        return self

    def __exit__(self, *exception):
        self.run.open_invoke = None

    @property
    def tokens(self):
        """The token ids of each prompt, as a list of 1-D int64 arrays."""
        if self._tokens is None:
            prompt = self.prompt if _is_several(self.prompt) else [self.prompt]
            texts = [p for p in prompt if isinstance(p, str)]
            encoded = iter(self.run.model.tokenizer.encode(texts)) if texts else iter(())
            rows = [next(encoded) if isinstance(p, str) else p for p in prompt]
            self.take_tokens(id_lists([row for row in rows for _ in range(self.run.n_copies)]))
        return self._tokens

    def take_tokens(self, tokens):
        """The ids that the server uses."""
        self._tokens = tokens


class Generated(collections.abc.Sequence):
    """`run.output`: a list of 1-D int64 arrays once the run has ended."""

    def __init__(self, run):
        self._run = run

    def __len__(self):
        return len(self._run.sequences())

    def __getitem__(self, i):
        return self._run.sequences()[i]

    @property
    def value(self):
        """The list itself."""
        return self._run.sequences()

    def save(self):
        """Itself: the generated ids always come back."""
        return self

    def __repr__(self):
        try:
            return repr(self._run.sequences())
        except NoValue as e:
            return f"<{e}>"


def _is_several(prompt):
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], (str, list))


def prompt_of(prompt):
    """A prompt as the wire has it: a text, a list of ids, or a list of either."""
    if hasattr(prompt, "keys"):     # a dict, or a tokenizer's BatchEncoding
        prompt = _of_encoding(prompt)
    if isinstance(prompt, str):
        return _text(prompt)
    if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(p, str) for p in prompt):
        return [_text(p) for p in prompt]
    if isinstance(prompt, (list, tuple)) and prompt and all(
            isinstance(p, (list, tuple)) or getattr(p, "ndim", 0) == 1 for p in prompt):
        return [_ids(p) for p in prompt]
    if getattr(prompt, "ndim", 1) == 2:
        return [_ids(row) for row in prompt]
    return _ids(prompt)


def _text(text):
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"a prompt is no text: {e}") from None
    return text


def _ids(row):
    try:
        array = as_array(row)
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu" and array.size:
        raise TypeError("a prompt is a text, a list of token ids, a list of either, a 1-D or 2-D "
                        f"array of ids, or {{'input_ids': ...}}: not {row!r:.60}")
    return [whole(i, "a token id") for i in array.tolist()]


def _of_encoding(prompt):
    unsupported = set(prompt.keys()) - {"input_ids", "attention_mask", "token_type_ids"}
    if "input_ids" not in prompt.keys() or unsupported:
        raise TypeError("a prompt given as a dict has input_ids and attention_mask: not "
                        f"{', '.join(map(repr, sorted(prompt.keys())))}")
    mask = prompt["attention_mask"] if "attention_mask" in prompt.keys() else None
    if mask is not None:
        rows = mask if _is_several(mask) else [mask]
        if not all(bool((as_array(row) == 1).all()) for row in rows):
            raise ValueError("attention_mask hides tokens: padding is never sent, give each "
                             "prompt an invoke of its own, unpadded")
    return prompt["input_ids"]
