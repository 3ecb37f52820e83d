"""Whatever a registry answers, the transport gives the right bytes or says why not, in bounded time and memory."""

import contextlib
import datetime
import email.utils
import json
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from thinwalls.registry import Registry
from thinwalls.transport import (
    HUB,
    Reference,
    Refused,
    Stopped,
    Transport,
    TransportError,
    parallel,
    parse_reference,
)

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def registry():
    with Registry() as registry:
        yield registry


@pytest.fixture
def transport():
    with Transport(pause=0.01, patience=0.4) as transport:
        yield transport


@pytest.fixture
def blob(registry):
    """A blob of some pieces, and its URL."""
    data = secrets.token_bytes(700_000)
    return data, f"{registry.url}/v2/some/blobs/{registry.add_blob(data)['digest']}"


class Raw:
    """A server that says exactly these bytes, one answer for each connection, and keeps what it was asked."""

    def __init__(self, *answers, before_close=0.0):
        self.answers, self.before_close, self.asked = list(answers), before_close, []
        self.ended = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        while self.answers:
            with contextlib.suppress(OSError):
                connection = self.socket.accept()[0]
                with connection:
                    connection.settimeout(5)
                    self.asked.append(connection.recv(65536).decode())
                    answer = self.answers.pop(0)
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        connection.sendall(piece)
                    self.ended.wait(self.before_close)
            if self.ended.is_set():
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def ok(body, *headers):
    lines = ["HTTP/1.1 200 OK", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Names of images


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest", "again"),
    [
        ("debian", HUB, "library/debian", "latest", "", "debian"),
        ("debian:latest", HUB, "library/debian", "latest", "", "debian"),
        ("debian:12.1-slim", HUB, "library/debian", "12.1-slim", "", "debian:12.1-slim"),
        ("some/thing", HUB, "some/thing", "latest", "", "some/thing"),
        ("docker.io/debian", HUB, "library/debian", "latest", "", "debian"),
        ("index.docker.io/library/debian", HUB, "library/debian", "latest", "", "debian"),
        (f"{HUB}/a/b:1", HUB, "a/b", "1", "", "a/b:1"),
        (f"debian@{SHA}", HUB, "library/debian", "", SHA, f"debian@{SHA}"),
        (f"debian:latest@{SHA}", HUB, "library/debian", "latest", SHA, f"debian:latest@{SHA}"),
        ("localhost/x", "localhost", "x", "latest", "", "localhost/x"),
        ("localhost:5000/x:y", "localhost:5000", "x", "y", "", "localhost:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", "", "[::1]:5000/x"),
        ("quay.io/a/b/c__d-e---f.g:_T", "quay.io", "a/b/c__d-e---f.g", "_T", "", "quay.io/a/b/c__d-e---f.g:_T"),
        ("a:5000", HUB, "library/a", "5000", "", "a:5000"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text, registry, repository, tag, digest, again):
    found = parse_reference(text)
    assert found == Reference(registry, repository, tag, digest)
    assert str(found) == again
    assert parse_reference(again) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        ("quay.io/", "no name"),
        ("Debian", "small letters"),
        ("a//b", "letters and digits"),
        ("/a", "letters and digits"),
        ("a/", "letters and digits"),
        ("a___b", "letters and digits"),
        ("a..b/c/d", "not a host"),
        ("a b", "letters and digits"),
        ("a/../b", "letters and digits"),
        ("debian\n", "letters and digits"),
        ("débian", "letters and digits"),
        ("a:", "comes a tag"),
        ("a:b:c", "comes a tag"),
        ("a:-b", "comes a tag"),
        ("a:" + "b" * 129, "comes a tag"),
        ("a@", "comes a digest"),
        ("a@sha256:12", "comes a digest"),
        ("a@" + SHA.upper(), "comes a digest"),
        ("a@md5:" + "0" * 32, "comes a digest"),
        ("https://quay.io/a", "not a host"),
        ("user@quay.io/a", "comes a digest"),
        ("localhost:0/a", "not a host"),
        ("localhost:65536/a", "not a host"),
        ("localhost:x/a", "not a host"),
        ("-a.b/c", "not a host"),
        ("0" * 64, "an image's id"),
        ("a" * 250, "255"),
    ],
)
def test_what_is_no_name_is_said_to_be_none(text, why):
    with pytest.raises(ValueError, match=why):
        parse_reference(text)


# Small things


def test_get_gives_status_headers_and_body(registry, transport):
    registry.add_manifest("some", "1", b'{"a": 1}', "text/x")
    answer = transport.get(f"{registry.url}/v2/some/manifests/1", {"Accept": "text/x"})
    assert (answer.status, answer.body) == (200, b'{"a": 1}')
    assert answer.headers["docker-CONTENT-digest"].startswith("sha256:")
    assert registry.requests[-1].headers["accept"] == "text/x"


def test_a_refusal_says_which_and_carries_what_the_next_step_needs(transport):
    with Registry(token=True) as registry:
        with pytest.raises(Refused, match="401: .*UNAUTHORIZED") as caught:
            transport.get(f"{registry.url}/v2/some/manifests/1")
        assert len(registry.requests) == 1
    assert isinstance(caught.value, OSError)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"].startswith('Bearer realm="http://127.0.0.1:')
    assert json.loads(caught.value.body)["errors"][0]["code"] == "UNAUTHORIZED"


def test_a_refusal_cannot_speak_to_the_terminal_nor_at_length(transport):
    with Raw(b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\n\x1b[2Jhidden " + b"x" * 100_000) as server:
        with pytest.raises(Refused) as caught:
            transport.get(server.url)
    assert "\x1b" not in str(caught.value) and "hidden" in str(caught.value)
    assert len(str(caught.value)) < 400 and len(caught.value.body) <= 4096


def test_connections_are_kept_and_reused(registry, transport, blob):
    data, url = blob
    for _ in range(3):
        transport.get(url)
        assert b"".join(transport.download(url)) == data
        with pytest.raises(Refused):
            transport.get(registry.url + "/v2/nothing")
    assert len(registry.requests) == 9 and registry.connections == 1


def test_a_kept_connection_that_the_server_closed_costs_nothing(registry, transport, blob):
    assert transport.get(blob[1]).body == blob[0]
    registry._server.break_off()
    time.sleep(0.05)
    began = time.monotonic()
    with Transport(retries=0) as strict:  # a failure would be an error
        strict._idle, transport._idle = transport._idle, {}
        assert strict.get(blob[1]).body == blob[0]
    assert time.monotonic() - began < 0.4


@pytest.mark.parametrize("kind", ["exact", "announced", "endless", "chunked"])
def test_get_takes_no_more_than_its_limit(registry, transport, kind):
    url = f"{registry.url}/v2/some/blobs/{registry.add_blob(bytes(1000))['digest']}"
    if kind == "exact":
        assert len(transport.get(url, limit=1000).body) == 1000
        return
    if kind != "announced":
        registry.misbehave("*", kind)
    with pytest.raises(TransportError, match="more than 999 bytes"):
        transport.get(url, limit=999)
    assert len(registry.requests) == 1


# Trying again


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(registry, transport, blob, code):
    registry.misbehave("*", "status", 2, code=code)
    assert transport.get(blob[1]).body == blob[0]
    registry.misbehave("*", "status", 2, code=code)
    assert b"".join(transport.download(blob[1])) == blob[0]
    assert len(registry.requests) == 6


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 418])
def test_a_no_is_a_no(registry, transport, blob, code):
    registry.misbehave("*", "status", 2, code=code)
    with pytest.raises(Refused) as one:
        transport.get(blob[1])
    with pytest.raises(Refused) as two:
        next(transport.download(blob[1]))
    assert one.value.status == two.value.status == code
    assert len(registry.requests) == 2


def test_a_server_that_stays_busy_is_given_up(registry, blob):
    registry.misbehave("*", "status", 99, code=503)
    with Transport(retries=2, pause=0.01) as transport, pytest.raises(Refused) as caught:
        transport.get(blob[1])
    assert caught.value.status == 503 and len(registry.requests) == 3


def test_retry_after_is_obeyed_in_both_its_forms(registry, blob):
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    with Transport(pause=30) as transport:  # one's own pause would be too long
        for said in ("0", "1", email.utils.format_datetime(soon, usegmt=True), "Mon, 01 Jan 2001 00:00:00 GMT"):
            registry.misbehave("*", "status", code=429, headers={"Retry-After": said})
            began = time.monotonic()
            assert transport.get(blob[1]).body == blob[0]
            took = time.monotonic() - began
            assert took < 2.5 and (said != "1" or took >= 1)


@pytest.mark.parametrize("said", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "-1", "1e9", "1" * 400])
def test_retry_after_is_bounded_and_may_be_nonsense(registry, blob, monkeypatch, said):
    waits = []
    monkeypatch.setattr("thinwalls.jobs.Stop.wait", lambda self, seconds: waits.append(seconds))
    registry.misbehave("*", "status", 3, code=503, headers={"Retry-After": said})
    with Transport(pause=0.5) as transport:
        assert transport.get(blob[1]).body == blob[0]
    if said[:2] in ("99", "Fr"):
        assert waits == [60, 60, 60]
    else:  # one's own: doubled each time, up to half of it taken off
        assert all(nominal / 2 <= one <= nominal for one, nominal in zip(waits, (0.5, 1, 2), strict=True))


def test_a_connection_that_is_refused_or_reset_is_tried_again(registry, transport, blob):
    registry.misbehave("*", "reset", 2, at=-1)
    assert transport.get(blob[1]).body == blob[0]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Transport(retries=2, pause=0.01) as few, pytest.raises(TransportError, match=r"refused \(tried 3 times\)"):
        few.get(f"http://127.0.0.1:{port}/")


def test_a_body_that_is_cut_off_is_never_taken_for_a_whole_one(registry, transport, blob):
    registry.misbehave("*", "truncate", 2, at=1000)
    assert transport.get(blob[1]).body == blob[0]
    registry.misbehave("*", "truncate", 99, at=1000)
    with pytest.raises(TransportError, match="ended after 1000 of 700000 bytes"):
        transport.get(blob[1])


# Downloads


@pytest.mark.parametrize("size", ["known", "unknown"])
@pytest.mark.parametrize("kind", ["truncate", "reset", "stall"])
def test_a_download_goes_on_where_it_broke(registry, transport, blob, kind, size):
    data, url = blob
    registry.misbehave("*", kind, 2, at=100_000)
    assert b"".join(transport.download(url, size=len(data) if size == "known" else None)) == data
    ranges = [request.headers["Range"] for request in registry.requests]
    assert ranges[0] is None and len(ranges) == 3
    if kind != "reset":  # a reset may throw away what was already on the way
        assert ranges[1:] == ["bytes=100000-", "bytes=200000-"]


def test_a_server_that_knows_no_ranges_is_skipped_to_the_place(registry, transport, blob):
    data, url = blob
    registry.misbehave("*", "truncate", 1, at=300_000)
    registry.misbehave("*", "no-range", 1)
    assert b"".join(transport.download(url, size=len(data))) == data
    assert len(registry.requests) == 2


def test_a_server_that_sends_another_range_is_not_believed(registry, transport, blob):
    registry.misbehave("*", "truncate", 1, at=300_000)
    registry.misbehave("*", "bad-range", 1)
    with pytest.raises(TransportError, match="bytes from 300000 on were asked for"):
        list(transport.download(blob[1], size=len(blob[0])))


def test_a_download_can_start_in_the_middle(transport, blob):
    data, url = blob
    assert b"".join(transport.download(url, size=len(data), start=650_000)) == data[650_000:]
    assert list(transport.download(url, size=len(data), start=len(data))) == []


def test_a_token_that_expires_on_the_way_is_the_callers_to_renew(transport):
    with Registry(token=True) as registry:
        data = secrets.token_bytes(50_000)
        url = f"{registry.url}/v2/some/blobs/{registry.add_blob(data)['digest']}"
        registry.misbehave("*/blobs/*", "truncate", at=20_000)
        registry.misbehave("*/blobs/*", "expired")

        def token():
            answer = transport.get(f"{registry.url}/token?scope=repository:some:pull")
            return {"Authorization": "Bearer " + json.loads(answer.body)["token"]}

        got = b""
        with pytest.raises(Refused) as caught:
            for piece in transport.download(url, token(), len(data)):
                got += piece
        assert caught.value.status == 401 and got == data[:20_000]
        got += b"".join(transport.download(url, token(), len(data), start=len(got)))
        assert got == data


@pytest.mark.parametrize("kind", ["announced", "endless", "no-length", "chunked"])
def test_never_more_than_the_size_and_never_less(registry, transport, kind):
    data = secrets.token_bytes(400_000)
    url = f"{registry.url}/v2/some/blobs/{registry.add_blob(data)['digest']}"
    if kind != "announced":
        registry.misbehave("*", kind, 9)
    got = 0
    with pytest.raises(TransportError, match=r"400000 bytes announced, 399999 expected|more than 399999 bytes"):
        for piece in transport.download(url, size=399_999):
            got += len(piece)
            assert got <= 399_999
    if kind != "endless":
        with pytest.raises(TransportError, match="400000 bytes announced, 400001 expected|ended after|416"):
            list(transport.download(url, size=400_001))
    if kind in ("no-length", "chunked"):
        assert b"".join(transport.download(url, size=400_000)) == data
        assert b"".join(transport.download(url)) == data


def test_progress_is_told(registry, blob):
    told = []
    data, url = blob
    registry.misbehave("*", "truncate", at=1000)
    with Transport(pause=0.01, progress=lambda *what: told.append(what)) as transport:
        list(transport.download(url))
        list(transport.download(url, size=len(data), what="a layer"))
    assert {name for name, _, _ in told} == {url.rpartition("/")[2], "a layer"}
    assert {total for _, _, total in told} == {len(data)}
    first = [done for name, done, _ in told if name != "a layer"]
    assert first == sorted(first) and first[0] == 1000 and first[-1] == len(data)


def test_a_body_that_drips_is_a_stalled_one(registry):
    data = secrets.token_bytes(3000)
    url = f"{registry.url}/v2/some/blobs/{registry.add_blob(data)['digest']}"
    registry.misbehave("*", "slow", 1, piece=1, seconds=0.05)  # never silent for long, and 3000 pieces: 150 seconds
    began = time.monotonic()
    with Transport(pause=0.01, patience=0.3) as transport:
        assert b"".join(transport.download(url, size=len(data))) == data
    assert time.monotonic() - began < 3
    assert len(registry.requests) == 2


def test_a_reader_that_takes_its_time_is_no_stall(registry, transport, blob):
    pieces = transport.download(blob[1], size=len(blob[0]))
    first = next(pieces)
    time.sleep(0.6)  # longer than the patience
    assert first + b"".join(pieces) == blob[0]
    assert len(registry.requests) == 1


def test_a_download_that_is_dropped_leaves_no_connection(registry, transport, blob):
    pieces = transport.download(blob[1], size=len(blob[0]))
    next(pieces)
    pieces.close()
    assert transport._idle == {}
    assert transport.get(blob[1]).body == blob[0]


# Redirects


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_followed_without_the_password(registry, transport, blob, code):
    data, url = blob
    with Registry() as other:
        other.add_blob(data)
        registry.misbehave("*", "redirect", 2, code=code, to=other.url)
        secret = {"AUTHORIZATION": "Bearer x", "Cookie": "y", "Accept": "a/b"}
        answer = transport.get(url, secret)
        assert answer.body == data and answer.url == url.replace(registry.url, other.url)
        assert b"".join(transport.download(url, secret, len(data))) == data
        for request in other.requests:
            assert request.headers["Authorization"] is None and request.headers["Cookie"] is None
            assert request.headers["Accept"] == "a/b"
        assert registry.requests[0].headers["Authorization"] == "Bearer x"


def test_a_redirect_within_the_host_keeps_it_and_one_back_does_not_bring_it_back(registry, transport, blob):
    data, url = blob
    registry.misbehave("/first", "redirect", to=url)
    assert transport.get(registry.url + "/first", {"Authorization": "x"}).body == data
    assert registry.requests[-1].headers["Authorization"] == "x"
    with Registry() as other:
        registry.misbehave("/first", "redirect", to=other.url + "/second")
        other.misbehave("/second", "redirect", to=url)
        assert transport.get(registry.url + "/first", {"Authorization": "x"}).body == data
        assert registry.requests[-1].headers["Authorization"] is None


def test_redirects_have_an_end(registry, transport):
    registry.misbehave("/round", "redirect", 99, to=registry.url + "/round")
    with pytest.raises(TransportError, match="more than 5 redirects"):
        transport.get(registry.url + "/round")
    assert len(registry.requests) == 6


HOSTILE = [
    ("file:///etc/passwd", "neither http nor https"),
    ("ftp://localhost/", "neither http nor https"),
    ("http://user:pass@localhost/", "user or a password"),
    ("http://example.com/", "not encrypted"),
    ("http://localhost.example.com/", "not encrypted"),
    ("http://0x7f000001/", "not encrypted"),
    ("http:///x", "no host"),
    ("http://[::1/", "Invalid IPv6|no host"),
    ("http://localhost:99999/", "out of range|no host"),
    ("http://localhost:0/", "no host"),
    ("http://" + "a" * 64 + "/", "no host"),
    ("http://local host/", "space"),
    ("http://localhost/\x1b[2J", "control character"),
    ("http://localhost/\r\nX: y", "control character"),
    ("http://localhost/é", "ASCII"),
    ("http://localhost/" + "x" * 9000, "too long"),
]


@pytest.mark.parametrize(("url", "why"), HOSTILE)
def test_a_url_that_is_not_to_be_asked_is_not_asked(transport, url, why):
    for ask in (transport.get, lambda url: next(transport.download(url))):
        with pytest.raises(TransportError, match=why) as caught:
            ask(url)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "why"), [case for case in HOSTILE if not set("\né") & set(case[0]) and "///x" not in case[0]]
)
def test_nor_when_a_redirect_leads_there(registry, transport, url, why):
    registry.misbehave("*", "redirect", headers={"Location": url}, to="/")
    with pytest.raises(TransportError, match=why):
        transport.get(registry.url + "/x")
    assert len(registry.requests) == 1


def test_plain_http_is_for_this_machine_and_the_hosts_that_were_named():
    transport = Transport(plain_http=["one.example", "two.example:5000"])
    for registry, scheme in {
        "localhost:5000": "http",
        "127.0.0.1": "http",
        "[::1]:80": "http",
        "one.example:1": "http",
        "two.example:5000": "http",
        "Two.example:5000": "http",
        "two.example": "https",
        HUB: "https",
    }.items():
        assert transport.url(registry, "/v2/") == f"{scheme}://{registry}/v2/"
        assert transport._origin(transport.url(registry, "/v2/"))[0] == scheme
    with pytest.raises(TransportError):
        transport._origin("http://two.example/")


@pytest.mark.parametrize("value", ["Bearer x\r\nX-Other: y", "Bearer \x00", "é"])
def test_a_token_cannot_smuggle_a_header(registry, transport, value):
    with pytest.raises(TransportError, match="'Authorization'"):
        transport.get(registry.url + "/v2/", {"Authorization": value})
    assert registry.requests == []


# Answers that are not HTTP, or too much of it


def forever(piece):
    while True:
        yield piece


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"", "closed connection without response"),
        (forever(b"HTTP/1.1 100 Continue\r\n\r\n"), "KiB of headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "more than|KiB of headers"),
        ([b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"x" * 60_000 + b"\r\n"] * 9], "KiB of headers"),
        ([b"HTTP/1.1 200 OK\r\n", b"X: x\r\n" * 1000], "more than 100 headers"),
        (ok(b"zz\r\n", "Transfer-Encoding: chunked"), "IncompleteRead"),
        (ok(b"ff\r\n", "Transfer-Encoding: chunked"), "IncompleteRead"),
        ([ok(b"-5\r\n", "Transfer-Encoding: chunked"), forever(bytes(1000))], "more than 10 bytes"),
        ([ok(b"1\r\nx\r\n0\r\n", "Transfer-Encoding: chunked"), forever(b"A: b\r\n" * 1000)], "KiB of headers"),
    ],
)
def test_an_answer_that_is_not_one_is_an_error_in_bounded_time(answer, why):
    if isinstance(answer, list):
        answer = (piece for part in answer for piece in ([part] if isinstance(part, bytes) else part))
    began = time.monotonic()
    with Raw(answer) as server, Transport(retries=0, patience=1) as transport:
        with pytest.raises(TransportError, match=why):
            list(transport.download(server.url + "/x", size=10))
    assert time.monotonic() - began < 3


def test_headers_that_drip_are_a_stalled_answer():
    def drip():
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
            time.sleep(0.03)
            yield bytes([letter])

    began = time.monotonic()
    with Raw(drip(), ok(b"late")) as server, Transport(pause=0.01, patience=0.3) as transport:
        assert transport.get(server.url).body == b"late"
    assert time.monotonic() - began < 3


def test_all_bytes_are_enough_where_the_end_of_the_answer_does_not_come():
    with Raw(ok(b"x" * 10), before_close=5) as server, Transport(patience=0.3) as transport:
        assert b"".join(transport.download(server.url + "/x", size=10)) == b"x" * 10
        assert len(server.asked) == 1


# Proxy and TLS


class Proxy(Raw):
    """Passes one connection after another on to where CONNECT says, at a registry of this test in truth."""

    def __init__(self, to, answer=b"HTTP/1.1 200 Fine\r\nVia: me\r\n\r\n"):
        super().__init__()
        self.to, self.answer = to, answer

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection = self.socket.accept()[0]
                threading.Thread(target=self.relay, args=(connection,), daemon=True).start()

    def relay(self, near):
        with near, socket.create_connection(self.to) as far, contextlib.suppress(OSError):
            self.asked.append(near.recv(65536).decode())
            near.sendall(self.answer)
            back = threading.Thread(target=self.pump, args=(far, near))
            back.start()
            self.pump(near, far)
            back.join()

    def pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def address(registry):
    host, _, port = registry.host.rpartition(":")
    return host, int(port)


def test_a_proxy_is_asked_for_everything_and_never_the_environments(registry, blob, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    data, url = blob
    path = url.removeprefix(registry.url)
    with Transport(retries=0) as transport:
        assert transport.get(url).body == data
    with Proxy(address(registry)) as proxy:
        with Transport(["some.example:81"], proxy=proxy.url, retries=0) as transport:
            assert transport.get(f"http://some.example:81{path}").body == data
            assert b"".join(transport.download(f"http://some.example:81{path}")) == data
        assert [asked.split(" HTTP")[0] for asked in proxy.asked] == ["CONNECT some.example:81"]
    assert registry.requests[-1].headers["Host"] == "some.example:81"
    with Proxy(address(registry), b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxy:
        with Transport(["some.example"], proxy=proxy.url, retries=0) as transport:
            with pytest.raises(TransportError, match="Tunnel connection failed: 403"):
                transport.get("http://some.example/")


@pytest.mark.parametrize("proxy", ["127.0.0.1:3128", "https://proxy.example", "http://", "http://a:b@proxy.example"])
def test_what_is_no_proxy_is_said_to_be_none(proxy):
    with pytest.raises(ValueError, match="not a proxy"):
        Transport(proxy=proxy)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """(the authority's certificate, a server's certificate and key in one file, for localhost and tls.example)."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def run(*words):
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True, timeout=30)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.pem")
    run(*new, "-subj", "/CN=a server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost,DNS:tls.example,IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    run("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    both = folder / "server.pem"
    both.write_text((folder / "server.crt").read_text() + (folder / "server.key").read_text())
    return str(folder / "ca.pem"), both


@pytest.fixture
def secure(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[1])
    with Registry(tls=context) as registry:
        yield registry


def test_tls_with_an_authority_of_ones_own(secure, certificates):
    data = secrets.token_bytes(300_000)
    path = f"/v2/some/blobs/{secure.add_blob(data)['digest']}"
    with Transport(cafile=certificates[0], pause=0.01) as transport:
        for _ in range(2):
            assert transport.get(secure.url + path).body == data
        assert secure.connections == 1
        secure.misbehave("*", "truncate", at=1000)
        assert b"".join(transport.download(secure.url + path)) == data
        secure.misbehave("*", "redirect", headers={"Location": "http://127.0.0.1:1/"})
        with pytest.raises(TransportError, match="from https to http"):
            transport.get(secure.url + path)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(secure):
    with Transport(pause=60) as transport:
        with pytest.raises(TransportError, match="(?i)certificate.*tried 1 times"):
            transport.get(f"https://localhost:{address(secure)[1]}/v2/")
    assert secure.requests == []


def test_tls_through_a_proxy_is_checked_against_the_far_name(secure, certificates):
    with Proxy(address(secure)) as proxy:
        with Transport(proxy=proxy.url, cafile=certificates[0], pause=60) as transport:
            assert transport.get("https://tls.example/v2/").body == b"{}"
            with pytest.raises(TransportError, match="(?i)certificate"):
                transport.get("https://other.example/v2/")
    assert [asked.split(" HTTP")[0] for asked in proxy.asked] == [
        "CONNECT tls.example:443",
        "CONNECT other.example:443",
    ]


# Several at once


def test_results_come_in_the_order_of_the_jobs_and_so_many_run_at_once():
    running, most, lock = 0, 0, threading.Lock()

    def job(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (6 - number))
        with lock:
            running -= 1
        return number

    assert parallel([lambda number=number: job(number) for number in range(6)], at_once=3) == list(range(6))
    assert most == 3
    assert parallel([]) == []


def test_the_first_failure_ends_what_waits_for_the_network(registry, blob):
    ended, started = [], []
    registry.misbehave("*", "stall", 1, at=10)
    registry.misbehave("*", "status", 99, headers={"Retry-After": "50"})

    def wants(transport):
        started.append(1)
        try:
            return list(transport.download(blob[1]))
        except OSError as error:
            ended.append(type(error))
            raise

    def fails():
        while len(registry.requests) < 2:
            time.sleep(0.01)
        raise KeyError("the first")

    began = time.monotonic()
    with Transport(patience=50) as transport, pytest.raises(KeyError, match="the first"):
        parallel([lambda: wants(transport), lambda: wants(transport), fails, lambda: wants(transport)])
    assert time.monotonic() - began < 3
    assert ended == [Stopped, Stopped] and len(started) == 2
    assert threading.active_count() < 10


def test_a_transport_works_after_a_failure_and_in_threads(registry, transport, blob):
    data, url = blob
    with pytest.raises(Refused):
        parallel([lambda: transport.get(registry.url + "/v2/nothing")])
    jobs = [lambda: b"".join(transport.download(url, size=len(data)))] * 8
    assert parallel(jobs, at_once=4) == [data] * 8
