"""`with model.edit() as edited:`: interventions that are written once and replayed at the front
of each invoke of the edited model."""
from __future__ import annotations

from .invoke import Invoke
from .recording import Recording
from .run import Run


class Edit(Run):
    """What an edit writes: recorded, and never sent by itself.

    With a prompt, shapes are those of that prompt; without one they are not known.
    """

    def __init__(self, model, edited, prompt=None):
        super().__init__(model, {"max_new_tokens": 0}, False)
        self._edited = edited
        self._inside = Invoke(self, [0] if prompt is None else prompt)
        self._inside.can_plan = prompt is not None

    def __enter__(self):
        super().__enter__()
        return self._edited

    def _open(self):
        self._inside.__enter__()
        self.record(Recording())

    def _finish(self):
        self._edited._edits = (*self._edited._edits, self.recording)
        self._state = "done"

    def call_hooks(self):
        """Nothing: hook functions are called in the runs to come."""

    @property
    def n_steps(self):
        """Not known: that of the runs to come."""
        return None

    def checked_step(self, k):
        """The step as it is: each run that the edit is written into looks whether it has it."""
        return k

    def has_step(self, k):
        """True, as checked_step says."""
        return True

    def step_of(self, module):
        """As a run's; the generator's ids are complete behind the last step, whichever that is."""
        return -1 if module == "generator" else super().step_of(module)

    def why_no_value(self):
        """Why a saved value is not there, as half a sentence."""
        return "an edit saves nothing, save it in a run of the edited model"

    def planned(self, node):
        """As a run's, with a prompt; RuntimeError without one."""
        if not self.can_plan:
            raise RuntimeError(f"the shape of {node.label()} is a prompt's, and this edit has "
                               "none: write model.edit(prompt), and shapes are those of that "
                               "prompt")
        return super().planned(node)

    def add(self, op, args, kwargs=None, **facts):
        """As a run's; RuntimeError for a save."""
        if op == "save":
            raise RuntimeError("an edit saves nothing: save in a run of the edited model")
        return super().add(op, args, kwargs, **facts)

    def invoke(self, *args, **kwargs):
        """Refused: an edit is of every prompt."""
        raise RuntimeError("an edit has no invokes: it holds for all that the edited model has")

    def stop(self):
        """Refused: an edit is no run."""
        raise RuntimeError("an edit ends no run: call tracer.stop() in one of the edited model")

    def cache(self, *args, **kwargs):
        """Refused: an edit saves nothing."""
        raise RuntimeError("an edit saves nothing: call tracer.cache() in a run of the edited "
                           "model")
