"""Generation steps: `tracer.iter[1:3]`, `tracer.all()`, and the lists that collect a value from
each.

`for step in tracer.iter[1:3]:` runs its block for each step, as Python does. `with
tracer.iter[1:3]:` runs it once, for the first, and writes the same nodes for the others when the
block ends.
"""
from __future__ import annotations

import builtins

from .errors import NoValue
from .recording import Recording
from .values import whole


class Iterations:
    """`tracer.iter` and `module.iter`: an index or a slice chooses the steps."""

    __slots__ = ("_run", "_path")

    def __init__(self, run, path=""):
        self._run, self._path = run, path

    def __getitem__(self, key):
        return Iteration(self._run, self._path, key)

    def __call__(self, *collection):
        raise TypeError("iter takes steps, as iter[1:3]; over anything else Python's own loop "
                        "goes: `for item in ...:`")


class Iteration:
    """Some steps of a run, for the hooks of one module and those below it ("" is the model)."""

    def __init__(self, run, path, key):
        if not isinstance(key, (slice, builtins.list, tuple, range)):
            key = [whole(key, "a step")]
        self._run, self._path, self._key = run, path, key
        self.step = None            # where it is; None: at all of its steps
        self._rest = []             # the steps that are written when the block ends
        self._recording = None
        self._has_begun = False

    def covers(self, path):
        """Whether a module's hooks move with it."""
        return not self._path or path == self._path or path.startswith(self._path + ".")

    def _steps(self, run):
        n = run.n_steps
        if isinstance(self._key, slice):
            if n is None:
                raise RuntimeError("an edit does not know how many steps its runs will have: write "
                                   "`with model.iter[...]:`, or name the steps")
            steps = range(n)[self._key]
            if not steps:
                bounds = [self._key.start, self._key.stop]
                bounds += [self._key.step] if self._key.step else []
                text = ":".join("" if bound is None else str(bound) for bound in bounds)
                raise IndexError(f"iter[{text}] holds no step: {run.steps_text()}")
            return builtins.list(steps)
        return [run.checked_step(whole(k, "a step")) for k in self._key]

    @property
    def is_recorded(self):
        """Whether its block is written once for several steps."""
        return self._recording is not None

    # for step in tracer.iter[...]

    def __iter__(self):
        self._run.enter_iteration(self)
        try:
            for self.step in self._steps(self._run):
                yield self.step
        finally:
            self._run.iteration = None

    # with tracer.iter[...]

    def begin(self):
        """Begins the block; returns itself."""
        run = self._run
        run.enter_iteration(self)
        self._has_begun = True
        if run.n_steps is not None:
            self.step, *self._rest = self._steps(run)
        if self._rest or run.n_steps is None:
            self._recording = run.record(Recording())
        return self

    def __enter__(self):
        if not self._has_begun:
            self.begin()
        return StepOfAll() if self._recording else self.step

    def __exit__(self, kind, exception, traceback):
        if kind is None:
            self.end()

    def end(self):
        """Ends the block, and writes it for the other steps."""
        run, recording = self._run, self._recording
        if run.iteration is not self:
            return
        run.iteration = None
        if recording is None:
            return
        run.end_record(recording)
        if run.recording is not None:       # it is written as often when that is
            run.recording.take("iterate", None, self, recording)
            run.recording.proxies += recording.proxies
        elif not run.is_muted:      # its steps behind tracer.stop() are never reached
            made = {}
            for k in self._rest:
                made = recording.replay(run, k)
            for proxy in recording.proxies:
                proxy._move(made)

    def replay(self, run, recording, outer):
        """Writes a recorded block of an edit into a run, for each of its steps there."""
        for k in self._steps(run):
            outer.update(recording.replay(run, k, dict(outer)))


class StepOfAll:
    """What `with tracer.iter[...] as step:` gives where the block stands for several steps."""

    def _refuse(self, *args):
        raise RuntimeError("this block is written once for all of its steps, so Python does not "
                           "know the step: write `for step in tracer.iter[...]:`")

    __index__ = __int__ = __float__ = __bool__ = __hash__ = __format__ = __str__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __mod__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse

    def __repr__(self):
        return "<each step of the iteration>"


class List(builtins.list):
    """A list of values of a run, such as one for each step; after the run it holds arrays.

    Make it with `interpose.list()`. What is appended is copied as it is at that point. Inside
    `with tracer.iter[...]:` an append counts once for each step. Without `.save()` nothing of it
    comes back.

    >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=3) as tracer:
    ...     best = interpose.list().save()
    ...     with tracer.iter[:]:
    ...         best.append(model.lm_head.output[0, -1].argmax())
    >>> model.tokenizer.decode(best) == model.tokenizer.decode(tracer.output[0][-3:])
    True
    """

    def __init__(self, items=()):
        super().__init__()
        self._is_saved, self._runs = False, []
        self.extend(items)

    def append(self, item):
        """Adds a proxy, as it is at this point of the program, a tuple, list or dict that holds
        some (`x.topk(3)`), or anything of Python's."""
        run = next((proxy._run for proxy in _proxies(item)), None)
        if run is None:
            super().append(item)
            return
        recording = run.writer.recording
        n_proxies = len(recording.proxies) if recording else 0
        item = _each(item, "_kept")
        self.take(item)
        if recording is not None:
            recording.take("append", None, self, item)
            del recording.proxies[n_proxies:]   # this item stays that of its step

    def extend(self, items):
        """Appends each."""
        for item in items:
            self.append(item)

    def __iadd__(self, items):
        self.extend(items)
        return self

    def take(self, item):
        """Adds what has been saved, if the list is."""
        super().append(item)
        for run in {proxy._run for proxy in _proxies(item)}.difference(self._runs):
            self._runs.append(run)
            run.lists.append(self)
        if self._is_saved:
            _each(item, "_want")

    def take_again(self, run, item, made):
        """Adds what a recorded item has become."""
        self.take(_each(item, "_moved", run, made))

    def save(self):
        """Asks for all items, those that are there and those to come; returns the list."""
        self._is_saved = True
        for item in self:
            _each(item, "_want")
        return self

    def settle(self, run):
        """The run has ended: values in the place of its proxies, those alone that came."""
        if self._is_saved:
            self[:] = [_each(item, "_as_value", of=run) for item in self
                       if all(proxy._has_come() for proxy in _proxies(item) if proxy._run is run)]
            self._runs.remove(run)

    @property
    def value(self):
        """The values as a plain list; NoValue before the run."""
        if self._runs:
            raise NoValue("the list has no values: "
                          + (self._runs[0].why_no_value() if self._is_saved else
                             "it was not saved, call .save() inside the block"))
        return builtins.list(self)


def save(x):
    """x.save(), as a function; of a tuple or a dict each tensor in it, and a list becomes an
    `interpose.list()` that is saved, to which more may be appended.

    Raises TypeError for what is no tensor of a run and holds none.

    >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=2) as tracer:
    ...     best = interpose.save([])
    ...     first = interpose.save({"logits": model.lm_head.output[0, -1]})
    ...     with tracer.iter[:]:
    ...         best.append(model.lm_head.output[0, -1].argmax())
    >>> len(best), bool(first["logits"].argmax() == best[0])
    (2, True)
    """
    if isinstance(x, builtins.list):
        return (x if isinstance(x, List) else List(x)).save()
    if hasattr(x, "save"):
        return x.save()
    if not any(True for _ in _proxies(x)):
        raise TypeError(f"save takes a tensor of a run, or what holds some: not {x!r:.60}")
    return _each(x, "save")


def _proxies(item):
    """The proxies of a list's item, which is one or holds some."""
    if hasattr(item, "_moved"):
        yield item
    elif isinstance(item, (builtins.list, tuple, dict)) and not isinstance(item, List):
        for each in item.values() if isinstance(item, dict) else item:
            yield from _proxies(each)


def _each(item, verb, *args, of=None):
    """An item with what a verb gives in the place of its proxies (of one run)."""
    if hasattr(item, "_moved"):
        return getattr(item, verb)(*args) if of in (None, item._run) else item
    if not any(True for _ in _proxies(item)):
        return item
    if isinstance(item, dict):
        return {key: _each(value, verb, *args, of=of) for key, value in item.items()}
    items = [_each(each, verb, *args, of=of) for each in item]
    if isinstance(item, tuple):
        return type(item)(*items) if hasattr(item, "_fields") else tuple(items)
    return items
