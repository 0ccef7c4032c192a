"""`with run.invoke(prompt) as invoker:`: a prompt of a run, or several as rows of one batch."""
from __future__ import annotations

import numpy as np

from .errors import user_place
from .prompt import BOS, is_several, prompt_of
from .values import id_lists, whole


class Invoke:
    """A prompt (or a list of them) of a run, as a context: hooks inside it see its rows."""

    can_plan = True

    def __init__(self, run, prompt, add_bos=False):
        self.run = run
        self.prompt, self.add_bos = prompt_of(prompt), add_bos
        self.index = None
        self.steps = {}     # module path -> how often .next() has moved it on
        self.skipped = set()        # (module path, step) of module.skip()
        self.caches = []            # what tracer.cache() gave
        self.is_stopped = False     # by tracer.stop(): what is written behind it does not count
        self.place = user_place()
        self._tokens = None

    def __enter__(self):
        if self.index is not None:
            raise RuntimeError("an invoke can be entered once")
        for each in self.run.everyone:
            each.await_prompt()
        self.run.enter_invoke(self)
        self.index = self.run.count(self)
        for recording in self.run.model._edits:
            recording.replay(self.run)
        self.run.call_hooks()
        return self

    def __exit__(self, kind, exception, traceback):
        self.run.leave_invoke(kind)

    def wire(self):
        """The request's map of this invoke."""
        return {"prompt": self.prompt, **({"add_bos": True} if self.add_bos else {})}

    # Where the graph's hooks of this invoke are; everyone.py has those of all.

    def hook(self, path, step, place=None):
        """The node of a place of the model, asked for at a place of the user's code."""
        return self.run.graph.hook(path, self.index, step, place)

    def replace(self, hook, value, skips):
        """Another tensor in the place; the old one stays that of its names. `skips`: the module is
        left out."""
        return self.run.graph.replace(hook, value, skips)

    def step_of(self, hook):
        """The step of a node that `hook` gave."""
        return hook.step

    def ask(self, node):
        """Nothing: shapes are known here."""

    def next(self, increment=1):
        """Moves all modules on to the next generation step, for the rest of the invoke."""
        self.run.next(increment)

    def positions(self, what, occurrence=0, prompt=0):
        """The positions of tokens, as a list of ints: of those that spell a part of the prompt's
        text (`occurrence` chooses among several), of an index counted from either end, of a
        slice. Of several prompts in the invoke, `prompt` chooses one; where their lengths differ,
        positions are those of the left-padded rows that hooks see.

        Raises ValueError for a text that the prompt does not hold, IndexError for an index out of
        range.

        >>> with model.trace() as tracer:
        ...     with tracer.invoke("The Eiffel Tower is in the city of") as invoker:
        ...         tower = invoker.positions("Eiffel Tower")
        ...         model.transformer.h[0].output[0][:, tower] = 0
        >>> model.tokenizer.decode(invoker.tokens[0][tower]).strip()
        'Eiffel Tower'
        """
        tokens = self.tokens[prompt]
        padding = max(map(len, self.tokens)) - len(tokens)
        if isinstance(what, str):
            found = self.run.model.tokenizer.positions(tokens, what, occurrence)
        elif isinstance(what, slice):
            found = range(len(tokens))[what]
        else:
            what = whole(what, "a position")
            if not -len(tokens) <= what < len(tokens):
                raise IndexError(
                    f"position {what} does not exist: the prompt has {len(tokens)} tokens")
            found = [what % len(tokens)]
        return [i + padding for i in found]

    @property
    def tokens(self):
        """The token ids of each prompt, as a list of 1-D int64 arrays."""
        if self._tokens is None:
            prompt = self.prompt if is_several(self.prompt) else [self.prompt]
            bos = BOS if self.add_bos else ""
            texts = [bos + p for p in prompt if isinstance(p, str)]
            encoded = iter(self.run.model.tokenizer.encode(texts)) if texts else iter(())
            rows = [next(encoded) if isinstance(p, str) else p for p in prompt]
            self.take_tokens(id_lists([row for row in rows for _ in range(self.run.n_copies)]))
        return self._tokens

    @property
    def inputs(self):
        """What nnsight gives the model: (({"input_ids": ids},), {}), with ids (B, T), or a list of
        those of each prompt where their lengths differ, for nothing is padded.

        >>> with model.trace() as tracer:
        ...     with tracer.invoke("The Eiffel Tower") as invoker:
        ...         pass
        >>> model.tokenizer.decode(invoker.inputs[0][0]["input_ids"][0])
        'The Eiffel Tower'
        """
        rows = self.tokens
        ids = np.stack(rows) if len({len(row) for row in rows}) == 1 else rows
        return ({"input_ids": ids},), {}

    def take_tokens(self, tokens):
        """The ids that the server uses."""
        self._tokens = tokens
