"""HTTP: requests out, documents and frames in. Knows nothing of graphs."""
from __future__ import annotations

import base64
import json
import os
import random
import re
import threading
import time
import urllib.parse
import weakref

import msgpack
import urllib3

from .errors import RequestError, ServerError
from .frames import frames_of

DEFAULT_HOST = "http://127.0.0.1:8000"
CONNECT_SECONDS = 10
SILENCE_SECONDS = 60            # a server sends a heartbeat every 10 seconds
# How long a request is sent again that a busy server turns away (0: never), and how far those that
# were turned away together come back apart.
BUSY_SECONDS, APART_SECONDS = 60, 0.5

MSGPACK = "application/msgpack"

_clients = weakref.WeakSet()


class Client:
    """One server. Any thread may call it; connections are kept and shared by a process's threads.
    A forked process makes its own.

    A server that is busy says when to come back: that is done, for up to BUSY_SECONDS in all, and
    only then is its refusal raised. What has begun to be answered is never asked for again.
    """

    def __init__(self, host=None, user=None):
        host = host or os.environ.get("INTERPOSE_HOST") or DEFAULT_HOST
        self.user = user or os.environ.get("INTERPOSE_USER")
        if self.user and not (self.user.isascii() and self.user.isprintable()):
            raise ValueError(f"user goes into a header, as printable ASCII: not {self.user!r}")
        self._address = host if "://" in host else f"http://{host}"
        scheme, _, rest = self._address.rstrip("/").partition("://")
        who, _, place = rest.rpartition("@")
        self.host = f"{scheme}://{place}"
        self._headers = {"Accept": MSGPACK, "User-Agent": "interpose-python"}
        if who:     # for a proxy that asks for it
            basic = base64.b64encode(urllib.parse.unquote(who).encode()).decode()
            self._headers["Authorization"] = f"Basic {basic}"
        self._documents = {}
        self._begin()
        _clients.add(self)

    def __reduce__(self):
        return type(self), (self._address, self.user)

    def _begin(self):
        self._pool = urllib3.PoolManager(
            maxsize=64, retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS))
        self._lock = threading.Lock()
        self.hooking = threading.Lock()     # held while a model's hooks are replaced

    def document(self, path):
        """A document of the server that does not change while it runs: asked for once."""
        with self._lock:
            if path not in self._documents:
                self._documents[path] = self._whole(self._send("GET", path))
            return self._documents[path]

    def ask(self, path, body):
        """The document that a POST is answered with."""
        return self._whole(self._send("POST", path, body))

    def stream(self, path, body):
        """The frames that a POST is answered with, as they arrive; None is a heartbeat."""
        reply = self._send("POST", path, body)
        if reply.status != 200:
            self._whole(reply)
        ended = drained = False
        try:
            for frame in frames_of(reply.stream(1 << 18)):
                if frame is not None and (ended or not isinstance(frame, dict)):
                    raise ServerError(f"{self.host} sent a reply that is no stream of frames")
                ended = ended or frame is not None and frame.get("type") in ("end", "error")
                yield frame
            drained = True
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise self._failure(e) from None
        except (ValueError, msgpack.UnpackException) as e:
            raise ServerError(f"{self.host} sent a reply that is no msgpack: {e}") from None
        finally:
            if drained:
                reply.release_conn()
            else:       # left early, or broken: the server stops working for it
                reply.close()
        if not ended:
            raise ServerError(f"the stream from {self.host} was cut: run it again")

    def _send(self, method, path, body=None):
        headers = dict(self._headers)
        if self.user:
            headers["X-Interpose-User"] = self.user
        if body is not None:
            headers["Content-Type"] = MSGPACK
            body = msgpack.packb(body)
        until = time.monotonic() + BUSY_SECONDS
        while True:
            reply = self._try(method, path, body, headers)
            seconds = self._comes_back(reply)
            if seconds is None or time.monotonic() + seconds > until:
                return reply
            time.sleep(seconds)

    def _comes_back(self, reply):
        """In how many seconds to ask again; None for never."""
        after = reply.headers.get("Retry-After", "")
        if reply.status not in (429, 503) or not re.fullmatch("[0-9]{1,9}", after):
            return None     # with a date, it is nothing for this minute
        document = self._document_of(reply)
        error = document.get("error") if isinstance(document, dict) else None
        is_busy = isinstance(error, dict) and error.get("code") == "busy"
        return int(after) + random.uniform(0, APART_SECONDS) if is_busy else None

    def _try(self, method, path, body, headers):
        for attempt in (0, 1):
            try:
                return self._pool.request(method, self.host + path, body=body, headers=headers,
                                          preload_content=False, redirect=False)
            except urllib3.exceptions.ProtocolError as e:
                if attempt:     # once: a kept connection that the server has closed meanwhile
                    raise self._failure(e) from None
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as e:
                raise self._failure(e) from None
        raise AssertionError

    def _whole(self, reply):
        document = self._document_of(reply)
        if reply.status == 401:
            raise ServerError(f"{self.host} asks who you are: write user:key@ in front of its "
                              "name, in `host` or INTERPOSE_HOST")
        if not isinstance(document, dict) and reply.status in (502, 503, 504):
            raise ServerError(f"{self.host} is a proxy, and has no server behind it now "
                              f"({reply.status}): try again when it has started")
        if not isinstance(document, dict):
            raise ServerError(f"{self.host} answered {reply.status} with something that is not "
                              "ours: is it an Interpose server?")
        if reply.status != 200:
            raise request_error(document, reply.headers.get("X-Request-Id"))
        return document

    def _document_of(self, reply):
        """What a reply holds, however often it is asked; None where that is no document."""
        try:
            data = reply.data
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise self._failure(e) from None
        finally:
            reply.release_conn()
        kind = reply.headers.get("Content-Type", "").partition(";")[0]
        try:
            return msgpack.unpackb(data) if kind == MSGPACK else json.loads(data)
        except (ValueError, msgpack.UnpackException):
            return None

    def _failure(self, e):
        if isinstance(e, urllib3.exceptions.NewConnectionError):
            return ServerError(f"no server at {self.host}: start one with `make run` or set "
                               "INTERPOSE_HOST")
        if isinstance(e, urllib3.exceptions.ConnectTimeoutError):
            return ServerError(f"{self.host} did not answer within {CONNECT_SECONDS} seconds: is "
                               "the address right, and INTERPOSE_HOST?")
        if isinstance(e, urllib3.exceptions.TimeoutError):
            return ServerError(f"{self.host} was silent for {SILENCE_SECONDS} seconds, not even a "
                               "heartbeat came: look at its log, then run it again")
        if isinstance(e, (urllib3.exceptions.LocationParseError, ValueError,
                          urllib3.exceptions.URLSchemeUnknown)):
            return ServerError(f"{self.host!r} is no address of a server: write "
                               f"{DEFAULT_HOST!r}, for example")
        return ServerError(f"the connection to {self.host} broke: {e}")


def _begin_again():
    """In a forked process: on its parent's connections each would read what the other asked for,
    and a lock that a thread of the parent held would stay held."""
    for client in list(_clients):
        client._begin()


if hasattr(os, "register_at_fork"):     # where there is fork
    os.register_at_fork(after_in_child=_begin_again)


def request_error(document, request_id=None, place_of=lambda node: None):
    """The exception of an {"error": ...} document; `place_of` finds a node's line."""
    error = document.get("error")
    if not isinstance(error, dict):
        return ServerError("the server refused without saying why")
    node = error.get("node")
    return RequestError(str(error.get("code")), str(error.get("message")), error.get("path"), node,
                        error.get("request_id") or request_id, place_of(node))
