"""Two promises about memory: the engine allocates nothing once it runs (tests/alloc_watch.c ends it
if it does), and a server that has answered thousands of requests is no larger than one that has
answered hundreds."""
import concurrent.futures
import http.client
import json
import pathlib
import random
import re
import subprocess

import pytest

import wire
from conftest import BINARY
from random_requests import random_request
from test_service import Stream, read_until_it_runs

WATCH = BINARY.parent / "tests/alloc_watch.so"
TOOL = BINARY.parent / "tests/allocate_tool"
CALLS = ["malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign", "mmap", "munmap",
         "sbrk", "fopen"]

N_REQUESTS = 3200
GROWTH_KB = 4096  # what the allocator keeps for the threads of connections moves by a MB


@pytest.mark.parametrize("name", ["engine", "arithmetic"])
@pytest.mark.parametrize("call", CALLS)
def test_the_watch_finds(name, call):
    done = subprocess.run([TOOL, name, call], capture_output=True, text=True, timeout=60,
                          env={"LD_PRELOAD": str(WATCH)})
    assert done.returncode == -6
    seen = "malloc" if call == "fopen" else call
    assert done.stderr == f"alloc_watch: {seen} in the thread {name}\n"


@pytest.mark.parametrize("call", CALLS)
def test_the_watch_lets_others_allocate(call):
    done = subprocess.run([TOOL, "connection", call], capture_output=True, text=True, timeout=60,
                          env={"LD_PRELOAD": str(WATCH)})
    assert done.returncode == 0
    assert re.fullmatch(r"alloc_watch: 0 threads watched, \d+ calls in others\n", done.stderr)


def tokens(rng, sizes, length):
    return [rng.randrange(sizes["vocab"]) for _ in range(length)]


def mixed_requests(sizes):
    """Small and large ones, slow graphs, generation, shared beginnings; and some to be refused."""
    rng = random.Random(1)
    last = {"last": "lm_head.output[:, -1]"}
    beginning = tokens(rng, sizes, 200)
    slow = [{"op": "expand", "args": ["transformer.h.0.output[0][0, -1, :8]", [40000, 8]]},
            {"op": "softmax", "args": [{"node": 0}, 0]}, {"op": "mean", "args": [{"node": 1}]},
            {"op": "save", "args": [{"node": 2}], "name": "x"}]
    requests = [random_request(seed, sizes, wild=seed % 8 == 0) for seed in range(40)]
    for i in range(6):
        requests += [
            {"prompt": tokens(rng, sizes, sizes["context"] - i), "save": last},
            {"prompt": beginning + [i], "save": last},
            {"prompt": tokens(rng, sizes, 3), "nodes": slow},
            {"prompt": tokens(rng, sizes, 20), "max_new_tokens": 30,
             "sampling": {"temperature": 1.0, "seed": i}},
            {"prompt": [sizes["vocab"]]},
            {"prompt": [1], "save": {"x": "transformer.h.99.output[0]"}},
        ]
    rng.shuffle(requests)
    return requests


def ask(server, request):
    try:
        wire.raw(server.host, request)
        return "answered"
    except wire.Refused:
        return "refused"


def leave(server, sizes):
    """A client that goes away in the middle of a generation."""
    nodes = [{"op": "save", "args": ["lm_head.output[:, -1, :2]"], "step": step, "name": f"s{step}"}
             for step in range(40)]
    stream = Stream(server, {"prompt": [[1, 2, 3]] * 4, "max_new_tokens": 40, "nodes": nodes})
    read_until_it_runs(stream)
    stream.vanish()
    return "left"


def sizes_of(server):
    facts = json.loads(server.get("/v1/models")[1])["models"][0]
    return {"n_blocks": facts["n_blocks"], "vocab": facts["vocab"], "context": facts["context"]}


def test_the_engine_allocates_nothing(start_server):
    with start_server("--threads", "3", "--pass-rows", "64", LD_PRELOAD=str(WATCH)) as s:
        sizes = sizes_of(s)
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            work = [pool.submit(ask, s, request) for request in mixed_requests(sizes)]
            work += [pool.submit(leave, s, sizes) for _ in range(8)]
            ends = [each.result() for each in work]
        assert {end: ends.count(end) for end in set(ends)} == {"answered": 64, "refused": 12,
                                                               "left": 8}
        s.stop()
        found = s.wait_line(r"alloc_watch: (.*)")
        assert found and re.fullmatch(r"3 threads watched, \d+ calls in others", found[1]), s.log


def resident_kb(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


def send_many(server, requests, count, seed):
    """One client, a connection for some hundred requests."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    for i in range(count):
        connection.request("POST", "/v1/run", rng.choice(requests),
                           {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200 and b'"end"' in reply.read()
        if i % 300 == 299:
            connection.close()
    connection.close()


def send_from_many_clients(server, requests, count, n_clients=8):
    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        for each in [pool.submit(send_many, server, requests, count // n_clients, seed)
                     for seed in range(n_clients)]:
            each.result()


def small_requests(sizes):
    rng = random.Random(2)
    saves = ["transformer.h.0.output[0][:, -1]", "lm_head.output[:, -1, :8]",
             "transformer.h.1.attn.z.output[0, 1]"]
    return [json.dumps({"prompt": tokens(rng, sizes, rng.choice([3, 10, 70])),
                        "max_new_tokens": rng.choice([0, 0, 2]), "save": {"x": rng.choice(saves)}})
            for _ in range(50)]


def test_a_server_stays_as_large_as_it_is(start_server):
    with start_server("--cache-tokens", "2048", "--log-format", "quiet") as s:
        requests = small_requests(sizes_of(s))
        send_from_many_clients(s, requests, N_REQUESTS // 8)
        warm = resident_kb(s.process)
        send_from_many_clients(s, requests, N_REQUESTS)
        grown = resident_kb(s.process) - warm
        print(f"{warm} kB after {N_REQUESTS // 8} requests, {grown} kB more after {N_REQUESTS}")
        assert grown <= GROWTH_KB


def test_idle_connections_hold_little(start_server):
    """Behind a request: what the library keeps for the next one, 128 KB, and what a thread does."""
    body = json.dumps({"prompt": [1], "save": {"x": "lm_head.output[:, -1, :8]"}})

    def idle(s, count):
        connections = [http.client.HTTPConnection("127.0.0.1", s.port) for _ in range(count)]
        for connection in connections:
            connection.request("POST", "/v1/run", body, {"Content-Type": "application/json"})
            assert connection.getresponse().read().endswith(b"]}\n")
        return connections

    with start_server("--cache-tokens", "2048") as s:
        warm, connections = idle(s, 50), []
        before = resident_kb(s.process)
        connections += idle(s, 100)
        each = (resident_kb(s.process) - before) / 100
        for connection in warm + connections:
            connection.close()
        assert each < 180, f"{each} KB for each connection"
