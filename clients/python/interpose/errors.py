"""What can go wrong, and where in the user's own code it was written."""
from __future__ import annotations

import linecache
import os
import sys
import types

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_WRAPPERS = ("torch", "numpy")  # their Python stands between the user's line and ours


class InterposeError(Exception):
    """The common base of this package's errors."""


class RequestError(InterposeError):
    """The server refused the request, or could not finish it.

    Attributes:
        code: a word of the server's table of errors ("shape", "order", "limit", ...).
        message: the server's sentence.
        path: the place in the request ("nodes[7].args[1]"), or None.
        node: the node's index in the request, or None.
        request_id: what the server's log calls this request.
        filename, lineno: where in your code that node was written, or None.
    """

    def __init__(self, code, message, path=None, node=None, request_id=None, place=None):
        self.code, self.message, self.path, self.node = code, message, path, node
        self.request_id, self.place = request_id, place
        self.filename = place.filename if place else None
        self.lineno = place.lineno if place else None
        super().__init__(code, message, path, node, request_id, place)

    def __str__(self):
        return f"{self.message} ({self.code})" + (f"\n  {self.place}" if self.place else "")


class ServerError(InterposeError, ConnectionError):
    """No server answered, or what answered broke off or does not speak our protocol."""


class NoValue(InterposeError, RuntimeError):
    """A value was asked for that does not exist: too early, never saved, or the run failed."""


class Place:
    """One spot in the user's code."""

    __slots__ = ("code", "filename", "lineno", "instruction")

    def __init__(self, frame):
        self.code, self.filename = frame.f_code, frame.f_code.co_filename
        self.lineno, self.instruction = frame.f_lineno, frame.f_lasti

    def __getstate__(self):
        """For other processes, where a pool's errors are raised: no code goes there."""
        return None, {"code": None, "filename": self.filename, "lineno": self.lineno,
                      "instruction": None}

    def __str__(self):
        line = linecache.getline(self.filename, self.lineno).strip()
        return f'File "{self.filename}", line {self.lineno}' + (f": {line}" if line else "")


def user_place():
    """The innermost line outside this package (and outside torch and numpy)."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            module = frame.f_globals.get("__name__") or ""
            if module.partition(".")[0] not in _WRAPPERS:
                return Place(frame)
        frame = frame.f_back
    return None


def raise_in_place(error):
    """Raises a refusal with a traceback that ends at its place, where its function is still
    running."""
    frame, place = sys._getframe(1), error.place
    while frame is not None and place is not None:
        if frame.f_code is place.code:
            raise error.with_traceback(types.TracebackType(
                None, frame, place.instruction, place.lineno)) from None
        frame = frame.f_back
    raise error from None
