"""Many clients at once, clients that leave, a full queue and a server that is told to stop: each stream
ends with a frame that says how, and nobody is kept waiting by somebody else's death."""
import concurrent.futures
import json
import os
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import msgpack
import pytest

import wire
from conftest import BINARY, IS_SLOW, MODEL

QUICK = {"prompt": [1, 2, 3], "save": {"x": "transformer.h.0.output[0][:, -1, :4]"}}
LIMIT = 10 if IS_SLOW else 2 # seconds in which the engine must notice


@pytest.fixture(scope="module")
def context(server):
    return json.loads(server.get("/v1/models")[1])["models"][0]["context"]


def steps_of(context):
    return min(context - 4, 64) if IS_SLOW else context - 4


def long_request(context, sequences=8):
    """As long as the model allows, with something saved at every step."""
    steps = steps_of(context)
    nodes = [{"op": "save", "args": ["lm_head.output[:, -1, :2]"], "step": step, "name": f"s{step}"}
             for step in range(steps)]
    return {"prompt": [[1, 2, 3, 4]] * sequences, "max_new_tokens": steps, "eos_token_id": [],
            "nodes": nodes}


class Stream:
    """A run whose frames are read one by one."""

    def __init__(self, server, request, read=True):
        body = msgpack.packb(request)
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        self.socket.sendall(
            b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/msgpack\r\n"
            b"Accept: application/msgpack\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.file = self.socket.makefile("rb")
        self.status = None
        if read:
            self.read_head()

    def read_head(self):
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline().strip()):
            name, value = line.split(b":", 1)
            self.headers[name.decode().lower()] = value.strip().decode()

    def chunks(self):
        while size := int(self.file.readline(), 16):
            yield self.file.read(size)
            self.file.readline()

    def frames(self):
        if self.status != 200:
            yield msgpack.unpackb(self.file.read(int(self.headers["content-length"])))
            return
        unpacker = msgpack.Unpacker()
        for chunk in self.chunks():
            unpacker.feed(chunk)
            yield from (frame for frame in unpacker if frame is not None)

    def vanish(self):
        """Closes so that the server sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()

    def leave(self):
        self.file.close()
        self.socket.close()


def read_until_it_runs(stream):
    """The first saved tensor: the job is in the engine's hands."""
    frames = stream.frames()
    for frame in frames:
        if frame["type"] == "tensor":
            return frames
    raise AssertionError("nothing was saved")


def run_when_there_is_room(s):
    """Those who left are noticed within the limit, and leave their places to others."""
    until = time.monotonic() + LIMIT
    while True:
        try:
            return wire.run(s.host, QUICK)
        except wire.Refused as e:
            assert e.status == 503 and time.monotonic() < until, s.log


def test_64_clients_get_their_own_replies(server):
    def ask(i):
        saved, end = wire.run(server.host, {
            "invokes": [{"prompt": [i + 1] * (1 + i % 7)}], "max_new_tokens": i % 3,
            "nodes": [{"op": "save", "args": ["transformer.wte.input"], "name": f"ids{i}"}]})
        return i, saved, end

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        for i, saved, end in pool.map(ask, range(64 if IS_SLOW else 640)):
            assert list(saved) == [(f"ids{i}", 0)]
            assert saved[f"ids{i}", 0].tolist() == [[i + 1] * (1 + i % 7)]
            assert end["status"] == "done"


def test_the_head_comes_before_the_run_is_done(server, context):
    stream = Stream(server, long_request(context))
    frames = stream.frames()
    assert next(frames)["type"] == "head"
    kinds = [frame["type"] for frame in frames]
    assert kinds == ["tensor"] * steps_of(context) + ["end"]


@pytest.mark.parametrize("way", ["leave", "vanish"])
def test_a_client_that_leaves_frees_its_place(start_server, context, way):
    """One place in all: the next client is served only once the first one's job is gone."""
    with start_server("--cache-tokens", context, "--queue", "4") as s:
        first = Stream(s, long_request(context, sequences=1))
        read_until_it_runs(first)
        getattr(first, way)()
        start = time.monotonic()
        wire.run(s.host, QUICK)
        assert time.monotonic() - start < LIMIT


def test_a_client_that_leaves_while_it_waits(start_server, context):
    with start_server("--cache-tokens", context, "--queue", "2") as s:
        running = Stream(s, long_request(context, sequences=1))
        read_until_it_runs(running)
        waiting = [Stream(s, QUICK), Stream(s, QUICK), Stream(s, QUICK)]
        for stream in waiting:
            stream.vanish()
        running.leave()
        run_when_there_is_room(s)


def test_many_clients_leave_in_the_middle(server, context):
    def come_and_go(i):
        stream = Stream(server, long_request(context, sequences=1 + i % 3), read=i % 4 > 0)
        frames = stream.frames() if stream.status else iter(())
        for _ in range(i % 9):
            next(frames, None)
        stream.vanish() if i % 2 else stream.leave()

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        neighbour = pool.submit(wire.run, server.host, long_request(context))
        list(pool.map(come_and_go, range(64 if IS_SLOW else 400)))
        assert neighbour.result()[1]["status"] == "done"
    start = time.monotonic()
    wire.run(server.host, QUICK)
    assert time.monotonic() - start < LIMIT


def test_a_full_queue_is_refused_at_once(start_server, context):
    with start_server("--cache-tokens", context, "--queue", "1") as s:
        streams = [Stream(s, long_request(context, sequences=1))]
        read_until_it_runs(streams[0])
        # One is out of the queue and waits for room, one is in the queue; the rest are refused. All
        # are long, so that it does not matter if the first ends meanwhile.
        for _ in range(5):
            streams.append(Stream(s, long_request(context, sequences=1)))
        refused = [stream for stream in streams if stream.status != 200]
        assert len(refused) >= 2
        for stream in refused:
            assert stream.status == 503
            assert int(stream.headers["retry-after"]) >= 1
            assert next(stream.frames())["error"]["code"] == "busy"
        for stream in streams:
            stream.leave()
        run_when_there_is_room(s)


def crowd_of(server, count, gathers):
    """Connections of one user, each with a request to plan that has millions of indices to check."""
    nodes = [{"op": "constant", "args": [{"tensor": bytes(8 * 4095), "dtype": "int64", "shape": [4095]}]},
             {"op": "unfold", "args": [{"node": 0}, 0, 2048, 1]}, # (2048, 2048)
             {"op": "expand", "args": [1.0, [2048, 2048]]},
             *[{"op": "gather", "args": [{"node": 2}, 0, {"node": 1}]}] * gathers]
    body = msgpack.packb({"prompt": [1], "nodes": nodes})
    crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for c in crowd:
        c.sendall(b"POST /v1/plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/msgpack\r\n"
                  b"X-Interpose-User: crowd\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return crowd


def test_who_plans_much_keeps_others_from_nothing(server):
    """A crowd as large as are planned at once: somebody else's requests are planned before any of
    them is done."""
    places = json.loads(server.get("/v1/spec")[1])["limits"]["PLANNING_MAX"]
    crowd = crowd_of(server, places, 2 if IS_SLOW else 8)
    for _ in range(10): # more than the crowd takes to come
        assert wire.post_json(server.host, "/v1/plan", {"prompt": [1]})[0] == 200
    assert select.select(crowd, [], [], 0)[0] == []
    for c in crowd:
        assert c.recv(12) == b"HTTP/1.1 200"
        c.close()


def test_a_reader_that_takes_nothing_stops_nobody(server, context):
    stuck = Stream(server, {"prompt": [[1] * (context - 1)] * 4, "save": {"x": "lm_head.output"}},
                   read=False)
    start = time.monotonic()
    for _ in range(5):
        wire.run(server.host, QUICK)
    assert time.monotonic() - start < 5 * LIMIT
    stuck.leave()


def test_a_document_counts_until_it_is_read(server):
    """Of 200 KB of text it is 16 MB: a few hundred readers would else take a machine's memory."""
    def held():
        text = server.get("/metrics")[1].decode()
        return int(re.search(r"^interpose_request_memory_bytes (\d+)", text, re.MULTILINE)[1])

    body = json.dumps({"text": "qz" * 99000}).encode()
    with socket.socket() as c:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", server.port))
        c.sendall(b"POST /v1/tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert c.recv(12) == b"HTTP/1.1 200"
        assert held() > 8 << 20
    until = time.monotonic() + LIMIT
    while held() > 0:
        assert time.monotonic() < until


def test_who_left_is_not_planned(start_server):
    with start_server() as s:
        for c in crowd_of(s, 32, 1 if IS_SLOW else 3):
            c.close()
        until = time.monotonic() + 10 * LIMIT
        while s.log.count("POST /v1/plan ") < 32:
            assert time.monotonic() < until, s.log
        assert s.log.count("POST /v1/plan 499,") >= 16


@pytest.mark.parametrize("request_, code", [
    ({"prompt": [[i] * 100 for i in range(3)]}, "limit"),
    ({"prompt": [[1]] * 5}, "limit"),
    ({"invokes": [{"prompt": [1]}] * 5}, "limit"),
    ({"prompt": [1] * 40, "save": {"x": "lm_head.output"}}, "limit"),
])
def test_what_can_never_fit_is_refused_before_it_waits(start_server, request_, code):
    with start_server("--rows", "256", "--logits-rows", "32", "--cache-tokens", "256") as s:
        status, reply = wire.post_json(s.host, "/v1/run", request_)
        assert (status, reply["error"]["code"]) == (413, code)
        assert sum(c.isdigit() for c in reply["error"]["message"]) >= 3, "both numbers are said"
        assert ("several requests" in reply["error"]["message"]) == ("invokes" in request_)
        wire.run(s.host, QUICK)


def test_sequences_of_one_prompt_are_not_called_prompts(start_server):
    """Equal prompts have the rows of one, but each goes on by itself."""
    with start_server("--rows", "1") as s:
        request = {"prompt": [1], "max_new_tokens": 2, "sampling": {"n": 5}}
        status, reply = wire.post_json(s.host, "/v1/run", request)
        assert (status, reply["error"]["code"], reply["error"]["message"]) == (
            413, "limit", "5 sequences are generated at once (prompts, each n times), and a pass of this "
                          "server takes a token each of 1 (--rows)")
        status, reply = wire.post_json(s.host, "/v1/run", {**request, "prompt": [1, 2]})
        assert (status, reply["error"]["message"]) == (
            413, "the prompts of one invoke have 2 tokens together, and a pass of this server takes 1 (--rows): "
                 "several invokes may go in several passes")
        assert wire.run(s.host, {**request, "max_new_tokens": 1})[1]["type"] == "end"


def last_frames(s, requests):
    """Starts all of them, and a function that reads them to their ends."""
    ends, lock = [], threading.Lock()

    def follow(request):
        stream = Stream(s, request)
        last = None
        for last in stream.frames():
            pass
        with lock:
            ends.append((stream.status, last))

    threads = [threading.Thread(target=follow, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join(120)
        return ends
    return join


def test_sigterm_lets_what_runs_finish(start_server, context):
    with start_server("--drain-seconds", "300") as s:
        join = last_frames(s, [long_request(context, 2) for _ in range(12)])
        running = Stream(s, long_request(context))
        frames = read_until_it_runs(running)
        s.signal(signal.SIGTERM)
        assert [*frames][-1]["type"] == "end"
        ends = join()
        assert len(ends) == 12
        for status, last in ends:
            assert (status, last["type"]) == (200, "end") or \
                   (status, last["error"]["code"]) == (503, "draining")
        assert s.wait_exit() == 0


def test_a_stopping_server_refuses_new_requests(start_server, context):
    with start_server("--cache-tokens", 8 * context) as s:
        streams = [Stream(s, long_request(context, 4)) for _ in range(16)]
        s.signal(signal.SIGTERM)
        assert s.wait_line(r"stop: finishing")
        status, body = s.get("/readyz")
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        late = Stream(s, QUICK)
        assert late.status == 503 and late.headers["connection"] == "close"
        assert next(late.frames())["error"]["code"] == "draining"
        assert s.get("/healthz")[0] == 200
        for stream in streams:
            stream.leave()


def test_a_stopping_server_plans_no_more(start_server):
    """Who waits for others to be planned does so in vain, and does not keep the server."""
    with start_server() as s:
        crowd = crowd_of(s, 32, 1 if IS_SLOW else 3)
        while b"connections_open %d\n" % (len(crowd) + 1) not in s.get("/metrics")[1]:
            pass    # one that is not taken yet would be cut off
        s.signal(signal.SIGTERM)
        statuses = [c.recv(12) for c in crowd]
        assert set(statuses) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert statuses.count(b"HTTP/1.1 503") >= 16
        for c in crowd:
            c.close()


def test_what_is_not_done_in_time_is_told_why(start_server, context):
    with start_server("--drain-seconds", "0", "--cache-tokens", 16 * context) as s:
        streams = [Stream(s, long_request(context, 4)) for _ in range(16)]
        frames = read_until_it_runs(streams[0])
        s.signal(signal.SIGTERM)
        ends = [list(part)[-1] for part in [frames, *(t.frames() for t in streams[1:])]]
        assert {end["type"] for end in ends} <= {"end", "error"}
        errors = [end["error"]["code"] for end in ends if end["type"] == "error"]
        assert len(errors) > 8 and set(errors) == {"draining"}
        assert s.wait_exit() == 0


def test_a_second_signal_ends_it_at_once(start_server, context):
    with pytest.raises(AssertionError, match="exited with 143"):
        with start_server("--cache-tokens", 8 * context) as s:
            streams = [Stream(s, long_request(context, 4)) for _ in range(16)]
            s.signal(signal.SIGTERM)
            assert s.wait_line(r"stop: finishing")
            s.signal(signal.SIGTERM)
            start = time.monotonic()
            assert s.wait_exit() == 143
            assert time.monotonic() - start < LIMIT
    assert streams


IS_CPU = pytest.mark.skipif("INTERPOSED_DEVICE" in os.environ,
                            reason="of a build without CUDA, whose driver reserves addresses too")


def start_refused(*arguments):
    done = subprocess.run([BINARY, "--port", "0", *map(str, arguments)], capture_output=True,
                          text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments, status, sentence", [
    (["--model", "/nowhere"], 1, "there is no folder"),
    (["--model", MODEL, "--host", "999.1.1.1"], 1, "--host 999.1.1.1"),
    (["--model", MODEL, "--port", "70000"], 2, "--port is \"70000\""),
    (["--prot", "1"], 2, "the nearest is --port"),
    (["--isa", "sse"], 2, "must be one of auto"),
    (["--device", "gpu"], 2, "must be auto, cpu or cuda:N"),
    pytest.param(["--device", "cuda:0"], 2, "this build has no CUDA", marks=IS_CPU),
    pytest.param(["--model", MODEL, "--slab-mb", 1 << 20, "--cache-tokens", 1 << 26], 1,
                 " together, and this process may have ", marks=IS_CPU),
    (["--weights", "int4"], 2, "--weights is \"int4\", and must be one of f32|bf16|int8\n"),
])
def test_a_bad_start_is_one_line(arguments, status, sentence):
    got, text = start_refused(*arguments)
    assert got == status
    assert text.startswith("interposed: ") and text.count("\n") == 1 and sentence in text


@pytest.mark.parametrize("arguments", [["--model", "/nowhere"], ["--port", "x"]])
def test_a_bad_start_is_json_where_the_log_is(arguments):
    line = json.loads(start_refused("--log-format", "json", *arguments)[1])
    assert line["event"] == "fatal" and arguments[1] in line["text"]


@IS_CPU
@pytest.mark.skipif(IS_SLOW, reason="a sanitizer's shadow takes more")
def test_what_takes_too_much_memory_is_said():
    done = subprocess.run(["sh", "-c", f"ulimit -v 700000; exec {BINARY} --model {MODEL} --cache-tokens 64"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        1, "interposed: no memory for 1073742336 bytes that requests compute in: lower --slab-mb\n")


def test_a_model_without_a_tokenizer_has_no_texts(start_server, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(pathlib.Path(MODEL).resolve() / name)
    with start_server("--model", tmp_path, "--model-name", "bare") as s:
        assert wire.run(s.host, QUICK)
        for path, body, instead in (
                ("run", {"prompt": "Hello"}, "send token ids"),
                ("run", {"prompt": [1], "max_new_tokens": 3, "stop": [7, "x"]},
                 "let stop name token ids"),
                ("completions", {"prompt": [1, 2]}, "/v1/run takes and gives token ids"),
                ("tokenize", {"text": "Hello"}, "/v1/run takes and gives token ids"),
                ("detokenize", {"tokens": [1]}, "/v1/run takes and gives token ids")):
            status, reply = wire.post_json(s.host, f"/v1/{path}", body)
            assert (status, reply["error"]["code"], reply["error"]["message"]) == (
                422, "file", f"the model bare has no tokenizer: {instead}")
        _, last = wire.run(s.host, {"prompt": [1], "max_new_tokens": 3, "stop": [7]})
        assert last["type"] == "end"


def test_an_end_of_text_that_the_model_lacks_is_said(start_server, tmp_path):
    for file in pathlib.Path(MODEL).resolve().iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": config["vocab_size"]}))
    with start_server("--model", tmp_path) as s:
        assert "eos_token_id is no token of the model: none ends a generation" in s.log


def test_a_port_in_use_is_said(server):
    got, text = start_refused("--model", MODEL, "--port", server.port)
    assert got == 1 and f"port {server.port}: Address already in use" in text


def test_tokenize_and_back(server):
    texts = ["Hello world", " a  b\n\tc", "naïve 漢字 🙂", ""]
    status, reply = wire.post_json(server.host, "/v1/tokenize", {"text": texts})
    assert status == 200
    assert ["".join(p) for p in reply["pieces"]][0] == texts[0]
    for text, pieces, offsets in zip(texts, reply["pieces"], reply["offsets"]):
        assert len(pieces) == len(offsets)
        ends = [0] + [end for _, end in offsets]
        for piece, (start, end), before in zip(pieces, offsets, ends):
            if "\ufffd" in piece:   # a part of a character has that character's
                assert end == start + 1 and start in (before, before - 1)
            else:
                assert text[start:end] == piece and start == before
        assert ends[-1] == len(text)
    status, back = wire.post_json(server.host, "/v1/detokenize", {"tokens": reply["tokens"]})
    assert (status, back["text"]) == (200, texts)
    status, one = wire.post_json(server.host, "/v1/tokenize", {"text": texts[0]})
    assert one["tokens"] == reply["tokens"][0]


def test_sampling_is_by_seed_alone(server):
    def tokens(seed, prompts):
        sampling = {"temperature": 1.0, "seed": seed}
        request = {"prompt": prompts, "max_new_tokens": 12, "sampling": sampling}
        return wire.run(server.host, request)[1]["generated"]

    alone = tokens(7, [[5, 6, 7]])
    assert tokens(7, [[5, 6, 7]]) == alone
    assert tokens(8, [[5, 6, 7]]) != alone
    assert tokens(7, [[5, 6, 7], [5, 6, 7]])[0][0] == alone[0][0]


def test_a_text_of_more_tokens_than_can_be_asked_back_is_refused(server):
    """A body of 16 MB would make a reply that takes half a gigabyte while it is written."""
    status, reply = wire.post_json(server.host, "/v1/tokenize", {"text": ["b", "\u4e00" * 100000]})
    assert (status, reply["error"]["code"], reply["error"]["path"]) == (413, "limit", "text[1]")
    status, reply = wire.post_json(server.host, "/v1/tokenize", {"text": "\u4e00" * 50000})
    assert status == 200 and len(reply["tokens"]) > 50000


def test_a_plan_says_that_generated_ids_are_known_behind_the_last_step(server):
    status, plan = wire.post_json(server.host, "/v1/plan", {
        "prompt": [1, 2], "max_new_tokens": 3, "save": {"ids": "generator.output"},
        "nodes": [{"op": "hook", "args": ["generator.output"]}]})
    assert status == 200
    assert [plan["nodes"][0]["step"], plan["saves"][0]["step"]] == [2, 2]
