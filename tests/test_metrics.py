"""GET /metrics: Prometheus reads it, and its numbers are what requests did."""
import concurrent.futures
import pathlib
import random
import re
import socket
import time

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

import wire

README = pathlib.Path(__file__).resolve().parent.parent / "server/README.md"

# What Prometheus 2.53 sends.
ACCEPT = ("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
          "text/plain;version=0.0.4;q=0.3,*/*;q=0.2")

PASS_ROWS = 150 # of the server of most tests
LONG = [11] * 130


@pytest.fixture(scope="module")
def small(start_server):
    with start_server("--pass-rows", PASS_ROWS) as s:
        yield s


def families(s):
    status, headers, text = wire.call(s.host, "GET", "/metrics", headers={"Accept": ACCEPT})
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return list(text_string_to_metric_families(text.decode()))


def key(sample):
    """As one writes it, without the prefix: 'requests_total done'."""
    return " ".join([sample.name.removeprefix("interpose_"), *sample.labels.values()])


def counts(s):
    """All but times and bytes, which no request says beforehand, and the connection of the asking."""
    return {key(sample): int(sample.value) for family in families(s) for sample in family.samples
            if not re.search(r"_(sum|bucket|bytes|open)$", sample.name)}


def moved(s, action):
    before = counts(s)
    action(s)
    return {name: value - before[name] for name, value in wait_until_idle(s).items()
            if value != before[name]}


def wait_until_idle(s):
    """A client has the last frame while the pass that it came from still ends."""
    until = time.monotonic() + 30
    while True:
        now = counts(s)
        is_idle = now["requests_running"] == now["requests_waiting"] == 0 and all(
            now[f"forward_passes_total {kind}"] == now[f"forward_pass_seconds_count {kind}"]
            for kind in ("shared", "large"))
        if is_idle:
            return now
        assert time.monotonic() < until, now


def test_the_text_is_prometheus_s(small):
    names = set()
    for family in families(small):
        assert family.name.startswith("interpose_") and family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        assert family.name not in names, "its rows are not neighbours"
        names.add(family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
            for labels in {tuple(set(x.labels.items()) - {("le", x.labels.get("le"))}) for x in family.samples}:
                rows = [x for x in family.samples if set(labels) <= set(x.labels.items())]
                parts = [x for x in rows if x.name.endswith("_bucket")]
                ends = [float(x.labels["le"]) for x in parts]
                assert ends == sorted(set(ends)) and ends[-1] == float("inf")
                heights = [x.value for x in parts]
                assert heights == sorted(heights)
                assert [heights[-1]] == [x.value for x in rows if x.name.endswith("_count")]
        else:
            assert all((x.name.endswith("_total")) == (family.type == "counter") for x in family.samples)


def test_the_readme_names_what_there_is(small):
    there = {x.name for family in families(small) for x in family.samples}
    named = set(re.findall(r"\binterpose_[a-z_]+\b", README.read_text()))
    assert len(named) > 8 and named <= there


def test_it_says_since_when_it_runs(small):
    started, = [x.value for family in families(small) for x in family.samples
                if x.name == "interpose_start_time_seconds"]
    assert 0 <= time.time() - started < 600


def run(request):
    return lambda s: wire.run(s.host, request)


def refused(path, document, code):
    def ask(s):
        assert wire.post_json(s.host, path, document)[1]["error"]["code"] == code
    return ask


def complete(**options):
    document = {"prompt": [1, 2, 3], "temperature": 0, **options}
    return lambda s: wire.call(s.host, "POST", "/v1/completions", msgpack.packb(document),
                               {"Content-Type": "application/msgpack"})


def done(prompt, new=0, decoded=0, passes=1, cached=0, kind="shared"):
    """What a request adds: `decoded` rows beside those of its prompts."""
    return {"requests_total done": 1, "prompt_tokens_total": prompt, "cached_prompt_tokens_total": cached,
            "generated_tokens_total": new, f"forward_passes_total {kind}": passes,
            f"forward_rows_total {kind}": prompt - cached + decoded,
            f"forward_pass_seconds_count {kind}": passes, "request_queue_seconds_count": 1,
            "request_seconds_count": 1, "time_to_first_result_seconds_count": 1}


EMBEDDED = {"x": "transformer.wte.output[0]"}

# By name: what is done, and all that it moves.
MOVES = {
    "one pass": (run({"prompt": [1, 2, 3], "save": EMBEDDED}), done(3)),
    "nothing saved": (run({"prompt": [1, 2, 3]}), done(3)),
    "two prompts": (run({"prompt": [[1, 2, 3], [4, 5]]}), done(5)),
    "tokens": (run({"prompt": [[1, 2, 3], [4, 5]], "max_new_tokens": 3, "eos_token_id": []}),
               done(5, new=6, decoded=4, passes=3)),
    "copies are computed once": (run({"prompt": [1, 2, 3], "max_new_tokens": 2, "eos_token_id": [],
                                      "sampling": {"n": 3}}), done(3, new=6, decoded=3, passes=2)),
    "a session": (run({"traces": [{"prompt": [1, 2]}, {"prompt": [3], "max_new_tokens": 2, "eos_token_id": []}]}),
                  done(3, new=2, decoded=1, passes=3)),
    "a long prompt": (run({"prompt": LONG, "max_new_tokens": 1}), done(130, new=1)),
    "its beginning is there": (run({"prompt": LONG + [12], "max_new_tokens": 1}), done(131, new=1, cached=128)),
    "a pass of its own": (run({"prompt": [1] * (PASS_ROWS + 1)}), done(PASS_ROWS + 1, kind="large")),
    "a completion": (complete(max_tokens=1), done(3, new=1)),
    "a stream of one": (complete(max_tokens=1, stream=True), done(3, new=1)),
    "a plan": (lambda s: wire.post_json(s.host, "/v1/plan", {"prompt": [1]}), {}),
    "itself": (lambda s: s.get("/metrics"), {}),
    "a graph that is wrong": (refused("/v1/run", {"prompt": [1], "save": {"x": "transformer.h.99.output"}},
                                      "unknown"),
                              {"requests_total refused": 1, "errors_total unknown": 1}),
    "a completion that is wrong": (refused("/v1/completions", {"prompt": [1], "max_tokens": -1}, "value"),
                                   {"requests_total refused": 1, "errors_total value": 1}),
    "a plan that is wrong": (refused("/v1/plan", {"prompt": []}, "value"), {"errors_total value": 1}),
    "a path that is not there": (lambda s: s.get("/nowhere"), {"errors_total unknown": 1}),
    "another method": (lambda s: wire.call(s.host, "DELETE", "/v1/run"), {"errors_total method": 1}),
}


@pytest.mark.parametrize("name", MOVES)
def test_numbers_move_by_what_a_request_did(small, name):
    action, expected = MOVES[name]
    assert moved(small, action) == {name: n for name, n in expected.items() if n}


def test_it_takes_get_alone(server):
    status, reply = wire.post_json(server.host, "/metrics", {})
    assert (status, reply["error"]["code"], reply["error"]["message"]) == (
        405, "method", "/metrics takes GET, HEAD, not POST")


def leave_early(s, request):
    """The status has come, so that the request was queued, and nobody reads on."""
    body = msgpack.packb(request)
    with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
        c.sendall(b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/msgpack\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert c.recv(12) == b"HTTP/1.1 200"


def test_many_at_once_add_up(small):
    """Requests that are done, refused and left, from many connections: each is counted once."""
    chance = random.Random(7)
    kinds = [chance.choice(["run", "generate", "refused", "left"]) for _ in range(60)]
    prompts = [[chance.randrange(1, 4000) for _ in range(chance.randrange(1, 40))] for _ in kinds]

    def ask(kind, prompt):
        request = {"prompt": prompt, "eos_token_id": []}
        if kind == "refused":
            return wire.post_json(small.host, "/v1/run", {**request, "nodes": [{"op": "nothing"}]})
        if kind == "left":
            return leave_early(small, {**request, "max_new_tokens": 200})
        return wire.run(small.host, {**request, "max_new_tokens": 5 if kind == "generate" else 0})

    def all_of_them(s):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, kinds, prompts))

    found = moved(small, all_of_them)
    n = {kind: kinds.count(kind) for kind in kinds}
    assert found["requests_total refused"] == n["refused"] == found["errors_total unknown"]
    n_done, n_cancelled = (found.get(f"requests_total {end}", 0) for end in ("done", "cancelled"))
    assert n_done + n_cancelled == n["run"] + n["generate"] + n["left"] and n_cancelled <= n["left"]
    assert found["request_seconds_count"] == n_done
    assert found["generated_tokens_total"] >= 5 * n["generate"]
    least = sum(len(p) for kind, p in zip(kinds, prompts) if kind in ("run", "generate"))
    assert least <= found["prompt_tokens_total"] <= sum(map(len, prompts))
    used = {key(x): x.value for family in families(small) for x in family.samples if "state" in x.labels}
    assert used["cache_bytes used"] == used["slab_bytes used"] == 0
    assert used["cache_bytes free"] > 0 and used["slab_bytes free"] == 1 << 30
