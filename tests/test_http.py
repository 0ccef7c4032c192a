"""What the HTTP layer does with everything that a browser, a scanner, a broken proxy or an attacker may
send, byte by byte. Behind each abuse a good request must still be served at once."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

import wire
from conftest import BINARY, IS_SLOW, MODEL, START_SECONDS, STOP_SECONDS

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = json.dumps({"prompt": [1, 2, 3]}).encode()
MIB = 1 << 20


def post(*lines, body=b"", path=b"/v1/plan"):
    """A POST with these header lines beside Host and Content-Type."""
    head = [b"POST %s HTTP/1.1" % path, b"Host: localhost", b"Content-Type: application/json"]
    return b"\r\n".join([*head, *lines, b"", b""]) + body


def get(*lines, path=b"/healthz", method=b"GET", host=b"Host: localhost", version=b"HTTP/1.1"):
    return b"\r\n".join([b"%s %s %s" % (method, path, version), *([host] if host else []), *lines,
                         b"", b""])


def chunks(*sizes):
    return b"".join(b"%x\r\n%s\r\n" % (n, b" " * n) for n in sizes)


class Connection:
    def __init__(self, server, seconds=30):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=seconds)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends until the other side has had enough."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _more(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.unread += data
        return bool(data)

    def _until(self, marker):
        while marker not in self.unread:
            if not self._more():
                return None
        found, self.unread = self.unread.split(marker, 1)
        return found

    def _exactly(self, count):
        while len(self.unread) < count:
            assert self._more(), "the body was cut"
        found, self.unread = self.unread[:count], self.unread[count:]
        return found

    def _chunks(self):
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._until(b"\r\n") == b""
        assert self._until(b"\r\n") == b""
        return body

    def reply(self, has_body=True):
        """(status, headers, body) of the next reply, or None if the connection just ends."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        body = b""
        if has_body and "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif has_body and headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        return int(status.split()[1]), headers, body

    def is_closed(self):
        """The other side closes within the timeout, and says nothing more before."""
        return not self._more() and self.unread == b""


def ask(server, data, seconds=30):
    with Connection(server, seconds) as c:
        c.send(data)
        return c.reply()


def code_of(reply):
    return json.loads(reply[2])["error"]["code"]


@pytest.fixture(autouse=True)
def still_serving(request):
    """After each test a good request succeeds within a second (ten under a sanitizer)."""
    yield
    if "server" in request.fixturenames:
        start = time.monotonic()
        status, _, body = ask(request.getfixturevalue("server"), GOOD)
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert time.monotonic() - start < (10 if IS_SLOW else 1)


REFUSED = {  # name: (what is sent, status, code, whether the connection must end)
    "two different lengths": (post(b"Content-Length: 2", b"Content-Length: 50", body=b"{}" + GOOD),
                              400, "header", True),
    "the same length twice": (post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
                              400, "header", True),
    "length and chunks": (post(b"Content-Length: 4", b"Transfer-Encoding: chunked",
                               body=b"0\r\n\r\n" + GOOD), 400, "header", True),
    "chunked twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked",
                           body=b"0\r\n\r\n"), 400, "header", True),
    "gzip, then chunked": (post(b"Transfer-Encoding: gzip, chunked"), 501, "encoding", True),
    "xchunked": (post(b"Transfer-Encoding: xchunked"), 501, "encoding", True),
    "identity": (post(b"Transfer-Encoding: identity"), 501, "encoding", True),
    "a GET with gzip framing": (get(b"Transfer-Encoding: gzip"), 501, "encoding", True),
    "no length": (post(body=b"{}"), 411, "length", True),
    "a length just too large": (post(b"Content-Length: %d" % (16 * MIB + 1)), 413, "limit", True),
    "a length of 2^63 - 1": (post(b"Content-Length: 9223372036854775807"), 413, "limit", True),
    "expect and a huge length": (post(b"Expect: 100-continue", b"Content-Length: 99999999"),
                                 413, "limit", True),
    "expect and a bad type": (post(b"Expect: 100-continue", b"Content-Length: 5",
                                   b"Content-Encoding: gzip"), 415, "media", True),
    "TRACE": (get(method=b"TRACE"), 405, "method", True),
    "PUT": (get(b"Content-Length: 2", method=b"PUT", path=b"/v1/run") + b"{}", 405, "method", True),
    "lower case": (get(method=b"get"), 405, "method", True),
    "POST where GET is meant": (post(b"Content-Length: 2", body=b"{}", path=b"/healthz"),
                                405, "method", True),
    "OPTIONS from nowhere": (get(method=b"OPTIONS"), 405, "method", True),
    "no Host": (get(host=None), 400, "header", True),
    "two Hosts": (get(b"Host: localhost"), 400, "header", True),
    "another's Host": (get(host=b"Host: evil.example"), 421, "misdirected", True),
    "a Host that starts like ours": (get(host=b"Host: localhost.evil.example"), 421, "misdirected",
                                     True),
    "a Host with an odd port": (get(host=b"Host: localhost:80@evil.example"), 421, "misdirected",
                                True),
    "an empty Host": (get(host=b"Host: "), 421, "misdirected", True),
    "another site's page": (post(b"Origin: https://evil.example", b"Content-Length: 2", body=b"{}"),
                            403, "origin", True),
    "a page from nowhere": (get(b"Origin: null"), 403, "origin", True),
    "two Authorizations": (get(b"Authorization: Bearer a", b"Authorization: Bearer b"),
                           400, "header", True),
    "two Content-Types": (post(b"Content-Type: application/json", b"Content-Length: 2", body=b"{}"),
                          400, "header", True),
    "a compressed body": (post(b"Content-Encoding: gzip", b"Content-Length: 2", body=b"\x1f\x8b"),
                          415, "media", True),
    "an escaped NUL in the path": (get(path=b"/healthz%00.json"), 400, "header", True),
    "a NUL in the path": (get(path=b"/healthz\0.json"), 400, "header", True),
    "a route that is not there": (get(path=b"/v1/modles"), 404, "unknown", True),
    "a path that climbs": (get(path=b"/v1/%2e%2e/%2e%2e/etc/passwd"), 404, "unknown", True),
    "a form": (b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
               b"Content-Type: application/x-www-form-urlencoded\r\n\r\n1", 415, "media", True),
    "a type that cannot be made": (get(b"Accept: image/png"), 406, "accept", True),
    "an empty body": (post(b"Content-Length: 0"), 400, "syntax", False),
    "a body that is not JSON": (post(b"Content-Length: 5", body=b"hello"), 400, "syntax", False),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server, name):
    sent, status, code, ends = REFUSED[name]
    with Connection(server) as c:
        c.send(sent)
        reply = c.reply()
        assert (reply[0], code_of(reply)) == (status, code)
        assert reply[1]["content-type"] == "application/json"
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,36}", reply[1]["x-request-id"])
        assert json.loads(reply[2])["error"]["request_id"] == reply[1]["x-request-id"]
        if ends:
            assert reply[1]["connection"].lower() == "close"
            assert c.is_closed(), "something behind the refused request was answered"


# Heads that the next server in a row could read differently: as another length, or as other lines.
LINE = (b"each header must be one line that ends in CR LF, its name a token, its value without CR, LF "
        b"and NUL")
HELLO = b"Content-Length: 5\r\n"
BROKEN = {  # name: lines behind Host, all with their ends
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n" + HELLO,
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n" + HELLO,
    "no name": b": chunked\r\n" + HELLO,
    "a name that is no token": b"X(y): z\r\n" + HELLO,
    "a NUL in a length": b"Content-Length: 5\0 9\r\n",
    "a NUL in a length before others": b"Content-Length: 5\0 9\r\nX: y\r\n",
    "a NUL behind a length": b"Content-Length: 5\0\r\n",
    "NULs in a length that look like ends": b"Content-Length: 5\0\0\0\0 9\r\n",
    "a NUL in a framing": b"Transfer-Encoding: chunked\0x\r\n",
    "a NUL in what nobody reads": b"X: y\0z\r\n" + HELLO,
    "a CR in a value": b"X: a\rTransfer-Encoding: chunked\r\n" + HELLO,
    "a CR behind a value": HELLO + b"X: a\r\r\nTransfer-Encoding: chunked\r\n",
    "a line that goes on in the next": b"X: a\r\n b\r\n" + HELLO,
    "a framing in a line that goes on": HELLO + b"X: a\r\n Transfer-Encoding: chunked\r\n",
    "a line that ends in LF": b"X: y\n" + HELLO,
    "a last line that ends in LF": HELLO[:-2] + b"\n",
}
BROKEN = {name: post()[:-2] + lines + b"\r\n" for name, lines in BROKEN.items()} | {
    "a request line that ends in LF": post(HELLO[:-2]).replace(b"1.1\r\n", b"1.1\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_headers_that_two_servers_could_read_differently(server, name):
    with Connection(server) as c:
        c.send(BROKEN[name] + b"hello" + GOOD)
        reply = c.reply()
        assert (reply[0], code_of(reply)) == (400, "header")
        assert json.loads(reply[2])["error"]["message"] == LINE.decode()
        assert c.is_closed()


def test_a_head_may_come_byte_by_byte(server):
    """And with all that is unusual and right: empty lines before it, arguments, 64 KB of headers."""
    lines = [b"X-%d: " % i + b"y" * 6000 for i in range(10)]
    sent = b"\r\n\r\n" + get(b"Cookie: a=b; c", b"!#$%&'*+-.^_`|~:\t\xff ", b"Empty:", *lines,
                               path=b"/healthz?a=%20b&c")
    with Connection(server) as c:
        for i in range(200):
            c.send(sent[i:i + 1])
        for i in range(200, len(sent), 5000):
            c.send(sent[i:i + 5000])
        assert c.reply()[0] == 200


# What the library underneath refuses by itself: the status is its own, the connection ends, and
# nothing that follows is taken for a request.
UNPARSABLE = {
    "a negative length": (post(b"Content-Length: -1"), {400}),
    "a length with a sign": (post(b"Content-Length: +5", body=b"hello"), {400}),
    "a length in hex": (post(b"Content-Length: 0x5", body=b"hello"), {400}),
    "a length with letters": (post(b"Content-Length: 5abc", body=b"hello"), {400}),
    "a length of 2^64": (post(b"Content-Length: 18446744073709551616"), {400, 413}),
    "a chunk of fff...f": (post(b"Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n"), {400, 413}),
    "a negative chunk": (post(b"Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n"), {400}),
    "a chunk in 0x": (post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n"), {400}),
    "a chunk without its end": (post(b"Transfer-Encoding: chunked", body=b"5\r\nhelloX\r\n"), {400}),
    "a header of 140 KB": (get(b"X: " + b"y" * 140000), {400, 413, 414, 431, 500}),
    "a path of 140 KB": (get(path=b"/" + b"a" * 140000), {400, 404, 413, 414, 431, 500}),
    "5,000 headers": (get(*[b"X-%d: y" % i for i in range(5000)]), {400, 413, 431, 500}),
    "a chunk extension of 140 KB": (post(b"Transfer-Encoding: chunked",
                                         body=b"5;" + b"x" * 140000 + b"\r\nhello\r\n0\r\n\r\n"),
                                    {400, 413, 431, 500}),
    "a method of 70 KB": (get(method=b"A" * 70000), {400, 405, 413, 414, 431, 500, 501}),
    "HTTP/2.0 in plain text": (get(version=b"HTTP/2.0"), {400, 505}),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", {400, 505}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 64 + b"\r\n\r\n", {400, 405, 505}),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405, 505}),
    "a Redis command": (b"*1\r\n$4\r\nPING\r\n\r\n", {400, 404, 405, 505}),
}


@pytest.mark.parametrize("name", UNPARSABLE)
def test_unparsable(server, name):
    sent, statuses = UNPARSABLE[name]
    with Connection(server) as c:
        c.send(sent + GOOD)
        reply = c.reply(has_body=False)
        assert reply is None or reply[0] in statuses
        while c._more():
            pass
        assert b'"ok"' not in c.unread, "a request hidden behind the refused one was run"


@pytest.mark.parametrize("sent", [get(b"X: " + b"y" * 70000), get(path=b"/" + b"a" * 70000),
                                  get(*[b"X-%d: " % i + b"y" * 7000 for i in range(10)])])
def test_too_many_bytes_of_headers(server, sent):
    with Connection(server) as c:
        c.send(sent + GOOD)
        reply = c.reply()
        assert (reply[0], code_of(reply)) == (413, "limit")
        assert re.search(rb"the path and the headers have 70\d\d\d bytes, at most 65536 are read",
                         reply[2])
        assert c.is_closed()


def test_3000_arguments_are_harmless(server):
    path = b"/healthz?" + b"&".join(b"a%d=b" % i for i in range(3000))
    with Connection(server, seconds=60) as c:
        c.send(get(b"Connection: close", path=path))
        reply = c.reply(has_body=False)
        assert reply is None or reply[0] in {200, 400, 413, 414, 431}


def message_of(reply):
    return json.loads(reply[2])["error"]["message"]


def test_a_length_past_the_limit_is_told_the_option(server):
    assert message_of(ask(server, post(b"Content-Length: 16777217"))) == (
        "the body has 16777217 bytes, at most 16777216 are read (--body-mb)")


def test_a_chunked_body_past_the_limit(server):
    with Connection(server) as c:
        c.send(post(b"Transfer-Encoding: chunked") + chunks(*[MIB] * 17) + b"0\r\n\r\n")
        reply = c.reply()
        assert (reply[0], code_of(reply)) == (413, "limit")
        assert message_of(reply) == "the body has more than 16777216 bytes (--body-mb)"
        assert reply[1]["connection"] == "close"
        assert c.is_closed()


def test_an_endless_chunked_body_is_cut(server):
    with Connection(server) as c:
        c.send(post(b"Transfer-Encoding: chunked"))
        piece, sent = chunks(MIB), 0
        try:
            while sent < 100:
                c.socket.sendall(piece)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 80, "the server went on reading"


def test_a_large_body_in_tiny_chunks(server):
    count = 20000 if IS_SLOW else 200000
    body = b"".join(b"1\r\n \r\n" for _ in range(count)) + chunks(0)[:-2] + b"\r\n"
    start = time.monotonic()
    reply = ask(server, post(b"Transfer-Encoding: chunked") + body)
    assert (reply[0], code_of(reply)) == (400, "syntax")
    assert time.monotonic() - start < 10


def test_a_body_in_chunks_is_a_body(server):
    half = len(BODY) // 2
    body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (half, BODY[:half], len(BODY) - half, BODY[half:])
    assert ask(server, post(b"Transfer-Encoding: chunked") + body)[0] == 200


def test_expect_is_answered(server):
    with Connection(server) as c:
        c.send(post(b"Expect: 100-continue", b"Content-Length: %d" % len(BODY)))
        assert c.reply(has_body=False)[0] == 100
        c.send(BODY)
        assert c.reply()[0] == 200


def test_pipelined_requests_are_answered_in_order(server):
    count = 1000
    with Connection(server) as c:
        c.send(b"".join(get(b"X-Request-Id: n%d" % i) for i in range(count)))
        got = [c.reply() for _ in range(count)]
    assert [reply[1]["x-request-id"] for reply in got] == [f"n{i}" for i in range(count)]
    assert all(reply[0] == 200 for reply in got)


def test_a_users_name_is_taken_once(server):
    assert ask(server, get(b"X-Interpose-User: ada"))[0] == 200
    reply = ask(server, get(b"X-Interpose-User: ada", b"X-Interpose-User: bob"))
    assert (reply[0], code_of(reply)) == (400, "header")


def test_a_connection_is_kept(server):
    with Connection(server) as c:
        for _ in range(3):
            c.send(post(b"Content-Length: %d" % len(BODY)) + BODY)
            assert c.reply()[0] == 200


def test_half_closing_behind_a_request_is_fine(server):
    with Connection(server) as c:
        c.send(post(b"Content-Length: %d" % len(BODY)) + BODY)
        c.socket.shutdown(socket.SHUT_WR)
        assert c.reply()[0] == 200


def test_old_clients_need_no_host(server):
    assert ask(server, get(host=None, version=b"HTTP/1.0"))[0] == 200


@pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost", b"LocalHost:1234", b"[::1]:80"])
def test_our_own_names(server, host):
    assert ask(server, get(host=b"Host: " + host))[0] == 200


def test_our_own_page_may_call(server):
    own = b"127.0.0.1:%d" % server.port
    assert ask(server, get(b"Origin: http://" + own, host=b"Host: " + own))[0] == 200


def test_head_has_no_body(server):
    with Connection(server) as c:
        c.send(get(method=b"HEAD", path=b"/v1/models"))
        status, headers, _ = c.reply(has_body=False)
        assert status == 200 and int(headers["content-length"]) > 100
        c.send(GOOD)
        assert c.reply()[0] == 200


@pytest.mark.parametrize("path, allow", [(b"/v1/run", "POST"), (b"/v1/spec", "GET, HEAD"),
                                         (b"/v1/models/demo", "GET, HEAD")])
def test_a_wrong_method_names_the_right_ones(server, path, allow):
    reply = ask(server, get(method=b"DELETE", path=path))
    assert (reply[0], reply[1]["allow"]) == (405, allow)


@pytest.mark.parametrize("sent, echoed", [(b"a.B_9-", True), (b"x" * 36, True), (b"x" * 37, False),
                                          (b"a b", False), (b"<script>", False), (b"", False)])
def test_request_ids(server, sent, echoed):
    got = ask(server, get(b"X-Request-Id: " + sent))[1]["x-request-id"]
    assert (got == sent.decode()) == echoed
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,36}", got)


@pytest.mark.parametrize("accept, kind", [
    (None, "application/json"), ("*/*", "application/json"), ("application/*", "application/json"),
    ("application/msgpack", "application/msgpack"),
    ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
    ("application/json;q=0.5, application/msgpack", "application/msgpack"),
    ("application/msgpack;q=0.2, application/json;q=0.3", "application/json"),
    ("application/json;q=0, */*", "application/msgpack"),
    ("image/png, application/msgpack", "application/msgpack"),
])
def test_the_reply_is_what_the_client_likes_most(server, accept, kind):
    lines = [b"Accept: " + accept.encode()] if accept else []
    assert ask(server, get(*lines))[1]["content-type"] == kind


@pytest.mark.parametrize("accept", ["application/msgpack", "application/x-ndjson",
                                    "application/json", "text/plain"])
def test_streams_come_in_every_form(server, accept):
    reply = ask(server, post(b"Accept: " + accept.encode(), b"Content-Length: %d" % len(BODY),
                             body=BODY, path=b"/v1/run"))
    assert reply[0] == 200
    assert reply[1]["content-type"].split(";")[0] == accept


@pytest.mark.parametrize("accept", ["application/msgpack", "application/x-ndjson",
                                    "application/json", "text/plain"])
def test_json_is_for_replies_that_are_not_large(server, accept):
    is_json = "json" in accept
    for rows in (2048, 2049) if is_json else (2049,):
        body = json.dumps({"prompt": [1], "nodes": [
            {"op": "constant", "args": [{"tensor": [True]}]},
            {"op": "expand", "args": [{"node": 0}, [rows, 2048]]},
            {"op": "save", "args": [{"node": 1}]}]}).encode()
        status, _, text = wire.call(server.host, "POST", "/v1/run", body, {
            "Accept": accept, "Content-Type": "application/json"})
        assert status == (413 if is_json and rows == 2049 else 200)
    if is_json:
        assert json.loads(text)["error"]["message"] == (
            "the saves have 4196352 numbers, and a reply as JSON at most 4194304: ask for msgpack "
            "(Accept: application/msgpack), or save less")


def test_a_listed_origin_may_call(start_server):
    with start_server("--allow-origin", "https://a.example, https://lab.example") as s:
        listed = b"Origin: https://lab.example"
        reply = ask(s, get(listed))
        assert reply[0] == 200
        assert reply[1]["access-control-allow-origin"] == "https://lab.example"
        reply = ask(s, get(listed, b"Access-Control-Request-Method: POST", method=b"OPTIONS",
                           path=b"/v1/run"))
        assert reply[0] == 204 and "POST" in reply[1]["access-control-allow-methods"]
        refused = ask(s, get(b"Origin: https://other.example", b"Access-Control-Request-Headers: x",
                             method=b"OPTIONS"))
        assert refused[0] == 403 and "access-control-allow-headers" not in refused[1]

        def allowed(wanted):
            reply = ask(s, get(listed, *wanted, method=b"OPTIONS", path=b"/v1/completions"))
            assert (reply[0], reply[1]["vary"]) == (204, "Origin, Access-Control-Request-Headers")
            return reply[1]["access-control-allow-headers"]

        ours, asked = "Content-Type, X-Request-Id, X-Interpose-User", b"Access-Control-Request-Headers: "
        openai = "authorization,content-type,x-stainless-arch, x-stainless-retry-count"
        assert allowed([]) == ours
        assert allowed([asked + openai.encode()]) == openai
        assert allowed([asked + b"x" * 1024]) == "x" * 1024
        for wanted in (b"x" * 1025, b"a;b", b"a: b", b"a\tb", b"\xff", b""):
            assert allowed([asked + wanted]) == ours


def test_a_slow_reader_is_cut(start_server):
    """Of a reply that is more than sockets hold it takes the first bytes."""
    body = json.dumps({"prompt": [[1] * 100] * 10, "save": {"x": "lm_head.output"}}).encode()
    with start_server("--reply-seconds", "1") as s, Connection(s, seconds=60) as c:
        c.send(post(b"Content-Length: %d" % len(body), path=b"/v1/run") + body)
        assert c.socket.recv(8).startswith(b"HTTP/1.1")
        assert s.wait_line(r"POST /v1/run 200", 20), s.log  # it may take a minute unless told
        assert ask(s, GOOD)[0] == 200


def test_slow_senders_are_cut(start_server):
    with start_server("--header-seconds", "1", "--body-seconds", "2") as s:
        start = time.monotonic()
        with Connection(s) as silent, Connection(s) as head, Connection(s) as body:
            head.send(b"GET /healthz HTTP/1.1\r\nX: ")
            body.send(post(b"Content-Length: 1000000"))
            while time.monotonic() - start < 4:
                head.send(b"y")
                body.send(b"{")
                assert ask(s, GOOD)[0] == 200
            assert silent.is_closed()
            assert head.is_closed()
            reply = body.reply()
            assert (reply[0], code_of(reply)) == (408, "timeout")
            assert body.is_closed()


def test_bodies_take_memory_as_they_come(server):
    if IS_SLOW:
        pytest.skip("a sanitizer has memory of its own")

    def resident():
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024

    before = resident()
    liars = [Connection(server) for _ in range(100)]
    for liar in liars:
        liar.send(post(b"Content-Length: %d" % (16 * MIB)) + b"{")
    assert ask(server, GOOD)[0] == 200
    assert resident() - before < 64
    for liar in liars:
        liar.socket.close()


def test_too_many_connections_are_told_so(start_server):
    with start_server("--connections", "256") as s:
        crowd = [Connection(s) for _ in range(256)]
        for c in crowd:
            c.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        reply = ask(s, GOOD)
        assert (reply[0], code_of(reply)) == (503, "busy")
        assert int(reply[1]["retry-after"]) >= 1
        for c in crowd:
            c.send(b"\r\n")
            c.reply()
            c.socket.close()
        until = time.monotonic() + 10
        while ask(s, GOOD)[0] != 200:
            assert time.monotonic() < until


def test_idle_connections_make_room(start_server):
    with start_server("--connections", "256") as s:
        crowd = [Connection(s) for _ in range(280)]
        until = time.monotonic() + 10
        while (ask(s, GOOD) or [None])[0] != 200:    # also closed at once, while all places are taken
            assert time.monotonic() < until
        for c in crowd:
            c.socket.close()


def test_few_files_are_few_connections(start_server, tmp_path):
    """And who closed the standard ones does not get a client's connection in their place."""
    shell = tmp_path / "interposed"
    shell.write_text(f'#!/bin/sh\nulimit -n 104\nexec {BINARY} "$@" <&- >&-\n')
    shell.chmod(0o755)
    with start_server(binary=shell) as s:
        assert s.wait_line(r"start: 8 connections may be open at once, not 2048: ulimit -n is 104$")
        files = pathlib.Path(f"/proc/{s.process.pid}/fd")
        assert [os.readlink(files / n) for n in "01"] == ["/dev/null"] * 2
        crowd = [Connection(s) for _ in range(8)]
        for c in crowd:
            c.send(b"GET /healthz HTTP/1.1\r\n")
        reply = ask(s, GOOD)
        assert (reply[0], code_of(reply)) == (503, "busy")
        crowd += [Connection(s) for _ in range(100)]
        assert crowd[-1].reply() is None
        for c in crowd:
            c.socket.close()
        until = time.monotonic() + 10
        while (reply := ask(s, GOOD)) is None or reply[0] != 200:
            assert time.monotonic() < until
        assert s.log.count("\n") < 200
        s.signal(signal.SIGHUP)
        assert s.wait_line(r"stop: done") and s.wait_exit() == 0


def test_a_log_that_nobody_reads_stops_nobody():
    """And each of its lines is one of JSON, whatever clients send."""
    with subprocess.Popen([BINARY, "--port", "0", "--model", MODEL, "--log-format", "json"],
                          stderr=subprocess.PIPE, preexec_fn=ignore_hangup) as process:
        ready = json.loads(process.stderr.readline())
        assert ready["event"] == "ready"
        process.port = int(re.search(r"on http://127.0.0.1:(\d+),", ready["text"])[1])
        for path in (b"/\xff\xc2\x9b", b"/%0a%22%5c%e2%80%ae", b"/" + b"a" * 5000):
            with Connection(process) as c:
                c.send(get(path=path))
                assert c.reply()[0] == 404 and c.is_closed() # and so its line is written
        process.send_signal(signal.SIGHUP)
        bad = post(b"Content-Length: 5", b"X-Request-Id: " + b"x" * 36, body=b"hello")
        with Connection(process) as c:
            c.send(bad * 1000)
            assert [c.reply()[0] for _ in range(1000)] == [400] * 1000
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
        lines = process.stderr.read().decode("ascii").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert r"GET /\xff\xc2\x9b 404" in texts[0]
    assert 'GET /\n"\\' + r"\xe2\x80\xae 404" in texts[1]
    assert "a 404, 0 bytes" in texts[2] and len(texts[2]) < 500
    assert 100 < len(lines) < 1000


def test_a_log_that_may_not_grow_ends_nothing(tmp_path):
    log = tmp_path / "log"
    command = f'ulimit -f 2; exec {BINARY} --port 0 --model {MODEL} 2> {log}'
    with subprocess.Popen(["sh", "-c", command], preexec_fn=ignore_hangup) as process:
        until = time.monotonic() + START_SECONDS
        while not log.exists() or not (ready := re.search(r" on http://\S+:(\d+),", log.read_text())):
            assert time.monotonic() < until and process.poll() is None
        process.port = int(ready[1])
        for _ in range(2 * 1024 // 50): # a line each
            assert ask(process, get(path=b"/x"))[0] == 404
        assert log.stat().st_size in (1024, 2048) # by the shell's idea of a block
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0


def test_a_mistyped_variable_is_named():
    done = subprocess.run([BINARY, "--model", "/nowhere"], env=os.environ | {"INTERPOSED_PROT": "5"},
                          stderr=subprocess.PIPE, text=True)
    assert re.match(r"\S+ start: not heeded, for no option is called so: INTERPOSED_PROT "
                    r"\(the nearest is INTERPOSED_PORT\)\ninterposed: there is no", done.stderr)


def ignore_hangup():
    """As nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
