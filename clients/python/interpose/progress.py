"""A line on the terminal or in the notebook about a run that takes long."""
from __future__ import annotations

import sys
import threading
import time

_QUIET_SECONDS = 1.0
_REDRAW_SECONDS = 0.2


def is_watched():
    """Whether somebody sees what is written to stderr."""
    return sys.stderr is not None and (
        type(sys.stderr).__module__.startswith("ipykernel") or sys.stderr.isatty())


class Progress:
    """`with Progress(shown) as p: p.text = "..."`: shows the text from the first second on."""

    def __init__(self, shown):
        self.text = "waiting for the server"
        self._shown, self._done = shown and is_watched(), threading.Event()

    def __enter__(self):
        if self._shown:
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception):
        if self._shown:
            self._done.set()
            self._thread.join()

    def _draw(self):
        began, width = time.monotonic(), 0
        if self._done.wait(_QUIET_SECONDS):
            return
        while True:
            line = f"interpose: {time.monotonic() - began:.0f} s, {self.text}"
            sys.stderr.write("\r" + line.ljust(width))
            sys.stderr.flush()
            width = len(line)
            if self._done.wait(_REDRAW_SECONDS):
                break
        sys.stderr.write("\r" + " " * width + "\r")
        sys.stderr.flush()
