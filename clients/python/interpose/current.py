"""Which run is being written just now: each thread and each task of asyncio has its own."""
from __future__ import annotations

import contextvars

# None outside all runs.
INNERMOST = contextvars.ContextVar("interpose_run", default=None)


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
