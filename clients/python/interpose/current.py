"""What holds just here: the run that is being written, and the hooks of the `with`s around. Each
thread and each task of asyncio has its own."""
from __future__ import annotations

import contextvars

# None outside all runs.
INNERMOST = contextvars.ContextVar("interpose_run", default=None)


# Pairs of a model and a hook, of each `with model.hooks(...)` that is open.
_HOOKED = contextvars.ContextVar("interpose_hooked", default=())


def hooked(model):
    """The hooks of a run that begins here: the model's own, then those of the `with`s."""
    return [*model._hooked, *(hook for each, hook in _HOOKED.get() if each is model)]


def add_hooked(model, hooks):
    """Adds hooks that hold here only."""
    _HOOKED.set((*_HOOKED.get(), *((model, hook) for hook in hooks)))


def drop_hooked(model, is_wanted):
    """Takes back those of a model's that hold here only, but for what is wanted."""
    _HOOKED.set(tuple((each, hook) for each, hook in _HOOKED.get()
                      if each is not model or is_wanted(hook)))


def open_run(model=None):
    """The innermost run that is being written here (of a model), or None."""
    run = INNERMOST.get()
    while run is not None and model is not None and run.model.client is not model.client:
        run = run.outer
    return run


def current_run(model=None):
    """As open_run; RuntimeError where there is none."""
    run = open_run(model)
    if run is None:
        raise RuntimeError("there is no run here: write it inside `with model.trace(prompt):`")
    return run


def apart(function, *args):
    """Calls a function where no run is open: what it opens is a request of its own, at once."""
    def call():
        INNERMOST.set(None)
        return function(*args)
    return contextvars.copy_context().run(call)
