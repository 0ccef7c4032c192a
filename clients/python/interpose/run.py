"""A run: `with model.generate(...) as generator: with generator.invoke(prompt): ...`.

Nothing runs until the outer block has ended without an exception; then one request is posted, and
the saved values are filled in as they arrive.
"""
from __future__ import annotations

import collections.abc

import numpy as np

from . import einops_backend
from .activation_cache import Pass, call_hook
from .cache import Cache, chosen
from .condition import Condition
from .current import INNERMOST, hooked
from .errors import NoValue, user_place
from .everyone import Everyone
from .graph import Graph, Node
from .invoke import Invoke
from .iteration import Iteration, Iterations, List
from .prompt import given_prompt
from .request import Request


class Run(Request):
    """One request, from the `with` that opens it to its values.

    Attributes, after the block: `request_id` and `timing` (seconds: queue, run).
    """

    def __init__(self, model, options, progress, prompt=None, add_bos=False):
        self.model, self.spec = model, model.spec
        self.max_new_tokens = options["max_new_tokens"]
        self.n_copies = options.get("sampling", {}).get("n", 1)
        self._options = options     # the request's fields beside invokes and nodes
        self.graph = Graph(self.spec)
        self.invokes = []
        self.open_invoke = None
        self.iteration = None       # the `tracer.iter[...]` that is open
        self.recording = None       # where what is written is recorded too
        self.everyone = []          # what `invoke()` without a prompt wrote
        # Of the open `tracer.cond`: True, False or a proxy, of it and those around it.
        self.conditions = []
        self.saved, self.lists = [], []     # proxies and lists that get values
        self.request_id = self.timing = self._reasons = None
        self.outer = None
        self.session = None         # that the run belongs to
        self._progress = progress
        self._implicit = None if prompt is None else Invoke(self, prompt, add_bos)
        self._state, self._failure = "new", None
        self._is_stopped = False
        self._logs = []             # what tracer.log shows behind the run
        self.fills = []             # tensors of the user's: (tensor, key, the proxy that it gets)
        self._new_tokens = None     # of each invoke, of each prompt
        self._place = user_place()

    @property
    def n_steps(self):
        """Passes through the model: one, or one for each new token."""
        return max(1, self.max_new_tokens)

    takes_runs = False  # whether runs can be written inside it

    @property
    def can_plan(self):
        """Whether shapes are known here, while the run is written."""
        return self.open_invoke is None or self.open_invoke.can_plan

    @property
    def is_open(self):
        """Whether the block is still being written."""
        return self._state == "open"

    @property
    def is_ahead(self):
        """Whether its values are still to come."""
        return self._state in ("open", "waiting")

    def __repr__(self):
        return ("<a run that has not begun: write `with` in front of it>" if self._state == "new"
                else f"<a run: {self._state}>")

    # The contexts.

    def __enter__(self):
        if self._state != "new":
            raise RuntimeError("a run can be entered once: open another with model.trace(...)")
        self.outer = INNERMOST.get()
        self._refuse_nesting()
        einops_backend.offer()
        self._state = "open"
        INNERMOST.set(self)
        try:
            self._open()
        except BaseException:
            self.__exit__(Exception, None, None)
            raise
        return self

    def _open(self):
        """What stands at the front of the block."""
        if self.session is not None:
            self.graph = self.session.graph
            self.session.runs.append(self)
            self.conditions = self.session.conditions[-1:]
        if self._implicit is not None:
            self._implicit.__enter__()

    def __exit__(self, kind, exception, traceback):
        try:
            if kind is None and self.open_invoke is not None:
                self.open_invoke.__exit__(None, None, None)
            for each in self.everyone if kind is None and self.invokes else ():
                each.write()
        finally:
            self._state, self.open_invoke = "failed" if kind is None else "abandoned", None
            INNERMOST.set(self.outer)
        if kind is not None:
            return
        try:
            self._finish()
        except BaseException as e:      # Ctrl-C too
            self._failure = str(e).partition("\n")[0] or type(e).__name__
            raise

    def _finish(self):
        """The block has ended: sends the request, and gives what was saved its values."""
        if not self.invokes:
            raise ValueError("this run has no prompt: open an invoke, "
                             "`with run.invoke(prompt):`, or give the prompt to trace(...)")
        if self.session is not None:
            self._state = "waiting"
            return
        self._send()
        self._state = "done"
        self.settle()
        self.graph.close()

    def settle(self):
        """The values have come: they take the place of proxies and of the items of lists. They are
        held by these alone, and by no cycle, so that they go when their names do."""
        for proxy in self.saved:
            proxy._settle()
        for each in self.lists:
            each.settle(self)
        for data in self._logs:
            print(*(x.value if hasattr(x, "_kept") and x._has_come() else x for x in data))
        for tensor, key, proxy in self.fills:
            if proxy._has_come():
                tensor[key] = proxy.torch().to(tensor)
        self.saved, self.lists, self._logs, self.fills, self.everyone = [], [], [], [], []

    def refuse_unfilled(self, data):
        """ValueError for a tensor of the user's to which a part of the run's values is to come."""
        def place(tensor):
            return tensor.untyped_storage().data_ptr()
        if hasattr(data, "untyped_storage") and data.isnan().any() and any(
                place(tensor) == place(data) for tensor, _, _ in self.fills):
            raise ValueError("your tensor gets its values when the run has ended, and is NaN until "
                             "then: use in the run what was set into it, and add that up first")

    def _refuse_nesting(self):
        run = self.outer
        while run is not None:
            if run.model.client is self.model.client:
                if not run.takes_runs or self.takes_runs:
                    raise RuntimeError(
                        f"a run of this model is open already, from {run._place}: end it first, or "
                        "write several invokes into one run, or runs into `with model.session():`")
                self.session = run
                return
            run = run.outer

    def call_hooks(self):
        """Calls the model's hook functions at the front of an invoke, once for each step."""
        if hooked(self.model):
            hooks = Pass(self.model, [0]).hooks
            for _ in self.iter[:] if self.n_steps > 1 else (0,):
                for hook in hooks:
                    call_hook(self, hook)

    def follow(self, session):
        """What has become of a session has become of its runs."""
        self._state, self._failure = session._state, session._failure

    def invoke(self, prompt=None, *, add_bos=False, scan=None, **unsupported):
        """Adds a prompt: hooks inside `with run.invoke(prompt):` see its rows only.

        `prompt` is a text, a list of texts, token ids as a list or a 1-D array, several rows of
        ids as a list of lists or a 2-D array, or {"input_ids": ..., "attention_mask": ...} of
        these, where what the mask hides at either end is left out; all of it may come as keywords:
        `invoke(**tokenizer(text))`. Prompts of one invoke may
        differ in length: hooks see them left-padded with zeros, so that -1 is the last token of
        each. `add_bos` begins texts with the tokenizer's <|endoftext|>. All invokes of a run go
        through the model together. Without a prompt, hooks see the prompts of all invokes of the
        run as one batch, left-padded where their lengths differ. `scan` is nnsight's, and changes
        nothing.

        Raises TypeError for anything else, ValueError for a mask that hides tokens between others;
        RuntimeError behind an invoke without a prompt that asked for the shape of them all.

        >>> with model.trace() as tracer:
        ...     with tracer.invoke("Hello") as invoker:
        ...         logits = model.lm_head.output.save()
        >>> logits.value.shape == (1, len(invoker.tokens[0]), model.config.vocab)
        True
        """
        prompt = given_prompt(prompt, unsupported)
        if unsupported:
            raise TypeError(f"invoke() has no parameter {next(iter(unsupported))!r}: it takes the "
                            "prompt only")
        if self._implicit is not None:
            raise RuntimeError("this run has its prompt from trace(prompt) or generate(prompt): "
                               "leave it out there to use invoke(prompt)")
        return Everyone(self) if prompt is None else Invoke(self, prompt, add_bos)

    def enter_invoke(self, invoke):
        """Hooks are of this invoke from here on."""
        self._check_open()
        if self.open_invoke is not None:
            raise RuntimeError("another invoke of this run is open: end it first")
        if self.iteration is not None or self.chooses:
            raise RuntimeError("an invoke cannot depend on a step or on a value: open it first, "
                               "and the iteration or the condition inside it")
        self.open_invoke = invoke

    def invoke_for(self, what, use="use"):
        """The invoke that is open; RuntimeError where `what`, which belongs to one, has none."""
        if self.open_invoke is None:
            raise RuntimeError(f"{what} belongs to a prompt: {use} it inside "
                               "`with run.invoke(prompt):`")
        return self.open_invoke

    def leave_invoke(self, kind):
        """Ends what is open inside the invoke, and the invoke."""
        if kind is None:
            if self.iteration is not None:      # of a module.all() without `with`
                self.iteration.end()
            for cache in self.open_invoke.caches:
                cache.write()
            self.open_invoke.caches = []
        self.iteration = self.open_invoke = None

    def next(self, increment=1):
        """Moves all modules on to the next generation step, for the rest of the invoke."""
        self.model.next(increment)

    @property
    def iter(self):
        """The generation steps: `for step in tracer.iter[1:3]:` has hooks inside see steps 1 and 2;
        `with tracer.iter[:]:` is written once and counts for all steps.

        Raises IndexError for a step that the run does not have.

        >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=3) as tracer:
        ...     with tracer.iter[1:]:
        ...         model.transformer.h[0].mlp.output[:] = 0
        ...     tops = [model.lm_head.output[0, -1].max().save() for step in tracer.iter[:]]
        >>> len([float(top) for top in tops])
        3
        """
        return Iterations(self)

    def all(self):
        """All generation steps: `with tracer.all():` is `with tracer.iter[:]:`. Without `with` it
        holds for the rest of the invoke.

        >>> with model.generate("The Eiffel Tower is in", max_new_tokens=2) as tracer:
        ...     tokens = interpose.list().save()
        ...     with tracer.all():
        ...         tokens.append(model.lm_head.output[0, -1].argmax())
        >>> len(tokens)
        2
        """
        return Iteration(self, "", slice(None)).begin()

    def cond(self, condition):
        """A block that takes effect only where a value of the run is true; see its `else_` too.

        The server computes both ways and chooses: what the block sets is the new or the old value,
        what it saves has no value (NoValue) where the condition is false. A condition that Python
        knows (`3 > 2`) is decided at once.

        Raises ValueError for a condition of several elements; RuntimeError, inside the block, for
        what is no choice between values (`stop`, `invoke`).

        >>> with model.trace("Hello") as tracer:
        ...     x = model.transformer.h[0].mlp.output
        ...     with tracer.cond(x.sum() < 1e9):
        ...         x[:] = 0
        ...     x = x.save()
        >>> bool((x.value == 0).all())
        True
        """
        return Condition(self, condition)

    def stop(self):
        """Ends the invoke here (outside invokes the run): what stands behind it is not computed,
        and a value saved there is none. The server leaves the model at the last value that is
        wanted by itself.

        >>> with model.trace("Hello") as tracer:
        ...     x = model.transformer.h[0].output[0].save()
        ...     tracer.stop()
        ...     y = model.lm_head.output.save()
        >>> x.value.ndim
        3
        >>> y.value
        Traceback (most recent call last):
            ...
        interpose.errors.NoValue: lm_head.output has no value: tracer.stop() stands before it
        """
        self._check_open()
        if any(condition is not True for condition in self.conditions):
            raise RuntimeError("tracer.stop() inside tracer.cond is not offered: what a run "
                               "computes must not depend on its values; set values inside the "
                               "condition")
        if self.open_invoke is None:
            self._is_stopped = True
        else:
            self.open_invoke.is_stopped = True

    def cache(self, modules=None, *, include_output=True, include_inputs=False, **unsupported):
        """Saves the outputs (with `include_inputs` the inputs too) of modules, given as a list of
        modules or of their names; all of them if None. They are as at the end of the invoke, with
        everything that the program sets, at each generation step.

        Returns a mapping of the modules' paths: see `help(interpose.cache.Cache)`.
        Raises ValueError for what is no module; nnsight's `device`, `dtype` and `detach` change
        nothing.

        >>> with model.trace([464]) as tracer:
        ...     cache = tracer.cache(modules=[model.transformer.h[0].mlp])
        >>> cache["transformer.h.0.mlp"].output.shape == (1, 1, model.config.width)
        True
        """
        unknown = set(unsupported) - {"device", "dtype", "detach"}
        if unknown:
            raise TypeError(f"cache() has no parameter {unknown.pop()!r}: it takes modules, "
                            "include_output and include_inputs")
        self._check_open()
        invoke = self.invoke_for("a cache", "open")
        cache = Cache(invoke, chosen(self.model, modules), include_output, include_inputs)
        invoke.caches.append(cache)
        return cache

    def positions(self, *args, **kwargs):
        """Its invoke's `positions`, where the run has one prompt only.

        >>> with model.trace("The Eiffel Tower is in the city of") as tracer:
        ...     model.transformer.h[0].output[0][:, tracer.positions("Eiffel Tower")] = 0
        """
        return self._only("positions").positions(*args, **kwargs)

    @property
    def inputs(self):
        """Its invoke's `inputs`, where the run has one prompt only."""
        return self._only("inputs").inputs

    def _only(self, what):
        if len(self.invokes) == 1:
            return self.invokes[0]
        return self.invoke_for(f"tracer.{what}", "ask")

    def barrier(self, *args):
        """nnsight's barrier between invokes; calling what it gives does nothing: values of one
        invoke can be used in another wherever their moments allow it."""
        return lambda: None

    def log(self, *data):
        """Prints behind the run: proxies as their values at this point.

        >>> with model.trace("Hello") as tracer:
        ...     tracer.log("the sum is", interpose.tensor([1.0, 2.0]).sum())
        the sum is 3.0
        """
        kept = [x.save() if hasattr(x, "_kept") else x for x in data]
        self._logs.append(kept)

    def apply(self, function, *args, **kwargs):
        """`function(*args, **kwargs)`, called now: it sees proxies, and what it does with them is
        written. `apply(list)` gives an `interpose.list()`, `apply(print, x)` prints behind the run.

        >>> with model.trace("Hello") as tracer:
        ...     x = tracer.apply(interpose.softmax, model.lm_head.output[0, -1], dim=-1).save()
        >>> round(float(x.value.sum()), 3)
        1.0
        """
        if function is print:
            return self.log(*args)
        return (List if function is list else function)(*args, **kwargs)

    def count(self, invoke):
        """Takes an invoke; returns its number, counted through all runs of a session."""
        self.invokes.append(invoke)
        return len(self.invokes) - 1 if self.session is None else self.session.count(invoke)

    # What belongs to the run as a whole.

    @property
    def output(self):
        """The ids of each sequence, prompt and generated, in the order of the prompts: after the
        run it reads as a list of 1-D int64 arrays. Before it, reading raises NoValue.

        >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=2) as run:
        ...     pass
        >>> len(run.output[0]) - len(run.tokens[0]), run.finish_reasons
        (2, ['length'])
        """
        return Generated(self)

    @property
    def result(self):
        """What nnsight calls so, inside the block: of a generation all ids, as a hook; of a trace
        `model.output`.

        >>> with model.generate("The Eiffel Tower is in", max_new_tokens=2) as run:
        ...     ids = run.result.save()
        >>> bool((ids[0] == run.output[0]).all())
        True
        """
        return self.model.generator.output if self.max_new_tokens else self.model.output

    @property
    def finish_reasons(self):
        """Why each sequence ended, "stop" or "length", in the order of `output`; None before."""
        return self._reasons and [why for invoke in self._reasons for why in invoke]

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
            "failed": f"the run failed: {self._failure}",
            "waiting": "it arrives when the `with` block of the session ends",
            "scanned": "it was scanned, not run: its shape and dtype are known",
            "done": "the generation ended before its step",
        }[self._state]

    # Writing the graph.

    def add(self, op, args, kwargs=None, **facts):
        """Adds a node, while the run is open; inside a condition, with what it makes of it."""
        if self.writer is not self:
            return self.writer.add(op, args, kwargs, **facts)
        self._check_open()
        if self.is_muted:
            return self._mute(op, args, kwargs, facts)
        if op == "set" and self.chooses:
            args = [args[0], self._choice(*args), *args[2:]]
        if op == "save" and self.chooses:
            facts["condition"] = self.write("save", [self.condition._node])
        return self.write(op, args, kwargs, **facts)

    def hooks(self, module, leaves, step=None):
        """The nodes of a module's hook points in the invoke that is open; without a step, at the
        one where the module is."""
        self._check_open()
        self.invoke_for(module)
        at = self.step_of(module) if step is None else step
        if at is not None and at == self.n_steps:
            raise IndexError(f"{module} has no next step: {self.steps_text()}")
        place, below = user_place(), module and f"{module}."
        nodes = [self.write_hook(below + leaf, at, place) for leaf in leaves]
        if self.recording is not None:
            moves = step is None and self._moves(module) and self.iteration.is_recorded
            for node, leaf in zip(nodes, leaves):
                self.recording.take("hook", node, below + leaf, None if moves else at)
        return nodes

    def parameter(self, path):
        """The node of one of the model's parameters, which belongs to no invoke."""
        self._check_open()
        node = self.graph.parameter(path)
        if self.recording is not None:
            self.recording.take("parameter", node, path)
        return node

    def replace(self, hook, value):
        """`module.output = value`; nothing where Python says it after `module.output += v`."""
        self._check_open()
        if self.is_muted or value is hook and self.graph.ends_with_set_of(hook):
            return
        self.write_replace(hook, self._choice(hook, value) if self.chooses else value)

    def skip(self, module, hook, value):
        """`module.skip(value)`: inside a condition only its output can be chosen."""
        self._check_open()
        if self.is_muted or self.chooses:
            self.replace(hook, value)
            return
        self.open_invoke.skipped.add((module, self.open_invoke.step_of(hook)))
        self.write_replace(hook, value, skips=True)

    @property
    def writer(self):
        """Who writes what is made of the run's values: the run, or later that of its session which
        is open."""
        return self if self.session is None or self.is_open else self.session.open_run()

    @property
    def condition(self):
        """Whether what is written here counts: True, False, or a proxy that will tell."""
        return self.conditions[-1] if self.conditions else True

    @property
    def chooses(self):
        """Whether values decide if what is written here counts."""
        return not isinstance(self.condition, bool)

    @property
    def is_muted(self):
        """Whether nothing that is written here counts."""
        return self.condition is False or self._is_stopped or (
            self.open_invoke is not None and self.open_invoke.is_stopped) or (
            self.session is not None and self.session._is_stopped)

    def _mute(self, op, args, kwargs, facts):
        if op not in ("set", "save"):
            return self.write(op, args, kwargs, **{**facts, "optional": True})
        node = Node(op, args)
        node.missing = ("the condition of its tracer.cond is false" if self.condition is False else
                        "tracer.stop() stands before it")
        return node

    def _choice(self, target, *value):
        """What `target` is once `value` has been set where the condition holds."""
        new = self.write("clone", [target])
        self.write("set", [new, *value])
        return self.write("where", [self.condition._node, new, target])

    # What recordings write again.

    def write(self, op, args, kwargs=None, **facts):
        """Adds a node as it is."""
        condition = facts.pop("condition", None)
        node = self.graph.add(op, args, kwargs, **facts)
        node.condition = condition
        if op == "set":
            self.graph.spread(args[0])
        if self.recording is not None:
            facts["condition"] = condition
            self.recording.take("add", node, op, args, kwargs or {}, facts)
        return node

    def write_hook(self, path, step, place=None):
        """The node of a hook point at a step; `place` is where the user asks for it."""
        return self.open_invoke.hook(path, step, place)

    def write_replace(self, hook, value, skips=False):
        """Gives a module another tensor, or stands for the module as a whole."""
        node = self.open_invoke.replace(hook, value, skips)
        if self.recording is not None:
            self.recording.take("replace", node, hook, value, skips)
        return node

    # Steps.

    def step_of(self, module):
        """The generation step where a module is, in the invoke that is open."""
        if self._moves(module):
            return self.iteration.step
        if module == "generator":   # its ids are complete behind the last step
            return self.n_steps - 1
        return self.open_invoke.steps.get(module, 0)

    def _moves(self, module):
        return (module != "generator" and self.iteration is not None
                and self.iteration.covers(module))

    def checked_step(self, k):
        """A step counted from either end; IndexError where the run has no such step."""
        if not -self.n_steps <= k < self.n_steps:
            raise IndexError(f"step {k} does not exist: {self.steps_text()}")
        return k % self.n_steps

    def has_step(self, k):
        """Whether the run has a step k, counted from 0."""
        return 0 <= k < self.n_steps

    def steps_text(self):
        """Which steps there are, for people."""
        return (f"this run has steps 0 to {self.n_steps - 1} "
                f"(max_new_tokens={self.max_new_tokens})")

    def enter_iteration(self, iteration):
        """Hooks move with `iteration` from here on."""
        self._check_open()
        if self.iteration is not None:
            raise RuntimeError("another iteration over steps is open: end it first")
        self.iteration = iteration

    def record(self, recording):
        """Records what is written from here on; hooks are nodes of their own."""
        self.graph.renew()
        recording.outer, self.recording = self.recording, recording
        return recording

    def end_record(self, recording):
        """Ends what `record` began."""
        self.recording = recording.outer

    def _check_open(self):
        if not self.is_open:
            raise RuntimeError("this run's block has ended, and nothing can be added to it: call "
                               ".save() inside the block on what is wanted here, or open another "
                               "run")


class Scan(Run):
    """A run that is planned when its block ends, and not run: shapes are known, values are not."""

    def _finish(self):
        self.plan(self.graph.unplanned())
        self._state = "scanned"


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
