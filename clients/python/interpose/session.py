"""`with model.session():`: several runs that go to the server as one request, and can use each
other's values without their travelling back and forth."""
from __future__ import annotations

import re

from . import graph as graphs
from .run import Run


class Session(Run):
    """Runs that share one graph; they run one behind the other when the session's block ends."""

    takes_runs = True

    def __init__(self, model, progress):
        super().__init__(model, {"max_new_tokens": 0}, progress)
        self.runs = []

    def __exit__(self, *exception):
        try:
            super().__exit__(*exception)
        finally:
            for run in self.runs:
                run.follow(self)

    def _finish(self):
        if not self.runs:
            raise ValueError("this session has no run: open one, `with model.trace(prompt):`")
        self._send()
        self._state = "done"
        first = 0
        for run in self.runs:
            n = len(run.invokes)
            run.request_id, run.timing = self.request_id, self.timing
            run._reasons = self._reasons[first:first + n]
            run._new_tokens = self._new_tokens[first:first + n]
            first += n
            run.settle()
        self.settle()
        self.graph.close()

    def open_run(self):
        """The run that is written just now, or the session itself between them."""
        return next((run for run in self.runs if run.is_open), self)

    def invoke(self, *args, **kwargs):
        """Refused: prompts belong to the session's runs."""
        raise RuntimeError("a session's prompts belong to its runs: open one, "
                           "`with model.trace(prompt):`")

    def _request(self, nodes):
        return {"model": self.model.server_name,
                "traces": [run.trace_of(nodes) for run in self.runs],
                "nodes": graphs.wire(nodes)}

    def _place_of(self, path):
        trace = re.match(r"traces\[(\d+)\]", path or "")
        if trace and int(trace[1]) < len(self.runs):
            run = self.runs[int(trace[1])]
            return run._place_of(path[trace.end() + 1:]) or run._place
        return super()._place_of(path)
