"""The smallest client of the wire, for tests that must not depend on clients/python: one request in,
its frames out, and saved tensors as raw bytes so that they can be compared with memcmp."""
import http.client
import json
import urllib.parse

import msgpack
import numpy as np


class Refused(Exception):
    """A reply with an HTTP error status: `.status` and the decoded error object `.error`."""

    def __init__(self, status, error):
        super().__init__(f"{status} {error}")
        self.status, self.error = status, error


def call(host, method, path, body=None, headers=None, timeout=300):
    """(status, headers, bytes) of one request on a connection of its own."""
    url = urllib.parse.urlsplit(host)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def post_json(host, path, document, accept="application/json"):
    """(status, decoded JSON) of a request sent as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    status, _, data = call(host, "POST", path, body,
                           {"Content-Type": "application/json", "Accept": accept})
    return status, json.loads(data)


def frames_of(host, request, timeout=300):
    """Runs a request as msgpack and returns its frames, heartbeats left out."""
    status, _, data = call(host, "POST", "/v1/run", msgpack.packb(request),
                           {"Content-Type": "application/msgpack",
                            "Accept": "application/msgpack"}, timeout)
    unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
    unpacker.feed(data)
    frames = [frame for frame in unpacker if frame is not None]
    if status != 200:
        raise Refused(status, frames[0]["error"])
    if not frames or frames[-1]["type"] not in ("end", "error"):
        raise AssertionError("the stream was cut")
    return frames


def run(host, request, timeout=300):
    """(name, step) -> array of every saved tensor, and the end frame."""
    frames = frames_of(host, request, timeout)
    if frames[-1]["type"] == "error":
        raise Refused(200, frames[-1]["error"])
    saved = {}
    for frame in frames:
        if frame["type"] == "tensor":
            array = np.frombuffer(frame["data"], dtype=frame["dtype"]).reshape(frame["shape"])
            saved[frame["name"], frame["step"]] = array
    return saved, frames[-1]


def raw(host, request, timeout=300):
    """(name, step) -> bytes, and the generated ids: what "the same bits" is about."""
    saved, end = run(host, request, timeout)
    return {key: array.tobytes() for key, array in saved.items()}, end.get("generated")
