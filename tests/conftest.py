"""The server under test. INTERPOSED names the binary (else build/interposed, or build/address/...
under a sanitizer), INTERPOSED_MODEL the model (else models/demo).

    def test_something(server): ...             # one for the whole session: server.host is its URL
    def test_other(start_server):
        with start_server("--queue", "2") as s: # one of its own; leaving the block stops it
            ...

Leaving the block sends SIGTERM and fails the test if the server does not exit with 0, which it
does not if a sanitizer found something.
"""
import contextlib
import http.client
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / os.environ.get("INTERPOSED", "build/interposed")
MODEL = os.environ.get("INTERPOSED_MODEL", str(ROOT / "models/demo"))
IS_SLOW = BINARY.parent.name in ("address", "thread")  # sanitizers take their time

START_SECONDS, STOP_SECONDS = (120, 60) if IS_SLOW else (60, 40)


def heed_hangup():
    """Also where the tests themselves run under nohup, which a child inherits."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Server:
    def __init__(self, *arguments, binary=BINARY, **environment):
        command = [str(binary), "--port", "0", "--model", MODEL, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            errors="replace", cwd=ROOT, env={**os.environ, **environment},
            preexec_fn=heed_hangup)
        self.lines, self.is_told = [], False
        self._moved = threading.Condition()
        threading.Thread(target=self._read_log, daemon=True).start()
        ready = self.wait_line(r"^interposed: .* on (http://(\S+):(\d+)),", START_SECONDS)
        assert ready, "the server did not start:\n" + self.log
        self.host, self.port = ready[1], int(ready[3])
        self.wait_ready()

    def _read_log(self):
        for line in self.process.stderr:
            with self._moved:
                self.lines.append(line)
                self._moved.notify_all()
        with self._moved:
            self.lines.append(None)
            self._moved.notify_all()

    @property
    def log(self):
        with self._moved:
            return "".join(line for line in self.lines if line)

    def wait_line(self, pattern, seconds=30):
        """The match of the first line of the log that fits, or None once there can be none."""
        def found():
            matches = (re.search(pattern, line) for line in self.lines if line)
            return next(filter(None, matches), None) or (None in self.lines and "over")
        with self._moved:
            match = self._moved.wait_for(found, seconds)
        return match if match and match != "over" else None

    def wait_ready(self):
        until = time.monotonic() + START_SECONDS
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < until, self.log

    def get(self, path, seconds=30):
        """(status, body) on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def signal(self, number):
        self.is_told = True
        self.process.send_signal(number)

    def wait_exit(self, seconds=STOP_SECONDS):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop:\n" + self.log[-4000:]) from None

    def stop(self):
        if self.process.poll() is None and not self.is_told:
            self.signal(signal.SIGTERM)
        status = self.wait_exit()
        assert status == 0, f"the server exited with {status}:\n" + self.log[-8000:]


@contextlib.contextmanager
def run_server(*arguments, **options):
    running = Server(*arguments, **options)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def start_server():
    return run_server


@pytest.fixture(scope="session")
def server():
    with run_server() as running:
        yield running


@pytest.fixture(scope="session")
def machine_isas():
    """What --isa may be on this machine."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    wanted = {"avx2": ("avx2", "fma"), "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl")}
    return ["plain"] + [isa for isa, needs in wanted.items()
                        if all(re.search(rf"\b{flag}\b", flags) for flag in needs)]
