"""The HTTP side of pulling an image: requests that try again, downloads that resume.

What it does not know is what a registry means by its answers: tokens, indexes, manifests and digests are stage 6. What
it holds against a registry is what no caller should have to think of each time: endless and stalled answers, redirects
that would carry a password elsewhere, URLs that are none.
"""

import contextlib
import email.utils
import http.client
import io
import random
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import STOP, Stopped, parallel
from .reference import HUB, REGISTRY, Reference, parse_reference, shown

__all__ = ["HUB", "Reference", "Refused", "Response", "Stopped", "Transport", "TransportError", "parallel"]
__all__ += ["parse_reference"]  # jobs and reference are found here too

PIECE = 256 << 10  # bytes: as much as download() gives at once, at most

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REDIRECTS = 5  # as many as are followed
_EXCERPT = 4 << 10  # bytes of a refusal's body that are kept
_LINES = 64 << 10  # bytes of headers in one answer; and of lines between two pieces of a body
_MOST = 64 << 30  # bytes of a body whose size nobody has said
_LONGEST_WAIT = 60.0  # seconds, whatever Retry-After says
_SLOWEST = 1024  # bytes a second; an answer that is slower has stalled
_WORTH = 1 << 20  # bytes: an attempt that brought so many is progress, and failures are counted anew
_URL = re.compile("[!-~]{1,8192}")


# Errors


class TransportError(OSError):
    """What was asked for cannot be had: the message says from where, and why."""


class Refused(TransportError):
    """The server answered, and it was no. A 401's headers say how to ask again (`headers["WWW-Authenticate"]`)."""

    def __init__(self, status: int, url: str, headers: http.client.HTTPMessage, body: bytes) -> None:
        """`headers` may be asked in any case of letters; `body` is the beginning, at most 4 KiB."""
        excerpt = " ".join(body[:200].decode(errors="replace").split())
        super().__init__(f"GET {shown(url)}: {status}" + (f": {shown(excerpt)}" if excerpt else ""))
        self.status, self.url, self.headers, self.body = status, url, headers, body


@dataclass(frozen=True)
class Response:
    """A whole answer. `headers` may be asked in any case of letters; `url` is where it came from after redirects."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str


# Requests


class Transport:
    """Asks registries. One may be shared by threads; close() it, or use it in a `with`, for it keeps connections."""

    def __init__(
        self,
        plain_http: Sequence[str] = (),
        proxy: str = "",
        retries: int = 4,
        patience: float = 20.0,
        pause: float = 0.5,
        progress: Callable[[str, int, int | None], None] | None = None,
        cafile: str | None = None,
    ) -> None:
        """Set what holds for every request.

        `plain_http`: hosts (host or host:port) that are asked by http; others than these and this machine never are.
        `proxy`: http://host:port, asked by CONNECT for everything. `retries`: how often a request is tried again
        without progress; `pause`: seconds before the first time, doubled each time. `patience`: seconds that a
        connection or an answer may stand still. `progress(what, bytes so far, bytes in all or None)`: called for each
        piece of a download, from the thread that downloads. `cafile`: authorities to believe besides the system's.
        """
        self._plain, self._retries, self._patience, self._pause = tuple(plain_http), retries, patience, pause
        self._progress, self._cafile = progress, cafile
        self._proxy = urllib.parse.urlsplit(proxy) if proxy else None
        if self._proxy and not (self._proxy.scheme == "http" and self._proxy.hostname and not self._proxy.username):
            raise ValueError(f"{proxy!r} is not a proxy: it should be http://host:port")
        self._idle: dict[tuple[str, str, int], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept for later."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (connection for kept in idle.values() for connection in kept):
            connection.close()

    def url(self, registry: str, path: str) -> str:
        """The URL of `path` (from the / on) at a registry (host or host:port): https, or http where that is allowed."""
        host = urllib.parse.urlsplit(f"//{registry}").hostname or ""
        return f"{'http' if self._may_be_plain(host, registry.lower()) else 'https'}://{registry}{path}"

    def get(self, url: str, headers: Mapping[str, str] | None = None, limit: int = 4 << 20) -> Response:
        """Fetch something small: at most `limit` bytes.

        Raises Refused for any answer but 2xx, TransportError for everything else that went wrong. Connections that
        fail, 429 and 5xx are tried again before that.
        """
        failures = 0
        while True:
            try:
                with self._answer(url, headers or {}) as (answer, place):
                    size, body = answer.length, bytearray()
                    for piece in _pieces(answer):
                        body += piece
                        if max(len(body), size or 0) > limit:
                            raise TransportError(f"GET {shown(url)}: more than {limit} bytes")
                    if size is not None and len(body) < size:
                        raise ConnectionError(f"the answer ended after {len(body)} of {size} bytes")
                    return Response(answer.status, answer.headers, bytes(body), place)
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                self._before_another(error, url, failures)

    def download(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
        start: int = 0,
        what: str = "",
    ) -> Iterator[bytes]:
        """Fetch something large, in pieces of at most 256 KiB; where the connection breaks, go on from there.

        `size`: bytes of the whole, if it is known; never more are given, and less is an error. `start`: bytes that the
        caller has already. `what`: its name for the progress (otherwise the URL's last part). Raises what get() raises,
        in the middle too: nothing that came is to be believed before its digest is checked.
        """
        what = what or url.partition("?")[0].rpartition("/")[2]
        done = before = start
        failures = 0
        while size is None or done < size:
            try:
                rest = {"Range": f"bytes={done}-"} if done else {}
                with self._answer(url, {**(headers or {}), **rest}) as (answer, _):
                    skip, size = _place(answer, url, done, size)
                    most = _MOST if size is None else size
                    for piece in _pieces(answer):
                        if skip:
                            skip, piece = max(0, skip - len(piece)), piece[skip:]
                        if done + len(piece) > most:
                            raise TransportError(f"GET {shown(url)}: more than {most} bytes")
                        if piece:
                            done += len(piece)
                            if self._progress:
                                self._progress(what, done, size)
                            yield piece
                    if size is None:  # nobody said how many: the end of the answer is the end
                        return
                    if done < size:
                        raise ConnectionError(f"the answer ended after {done} of {size} bytes")
            except (OSError, http.client.HTTPException) as error:
                if done == size and not isinstance(error, TransportError):
                    return  # all of it is here; only the end of the answer did not come
                failures = 1 if done - before >= _WORTH else failures + 1
                before = done
                self._before_another(error, url, failures)

    def _before_another(self, error: Exception, url: str, failures: int) -> None:
        """Wait until it is time for another attempt; raise if there is to be none."""
        STOP.get().check()
        after: float | None = None
        if isinstance(error, Refused) and (error.status == 429 or error.status >= 500):
            after = _retry_after(error.headers.get("Retry-After", ""))
        elif isinstance(error, TransportError):
            raise error
        hopeless = isinstance(error, ssl.SSLCertVerificationError) or (
            isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
        )
        if failures > self._retries or hopeless:
            if isinstance(error, Refused):
                raise error
            why = shown(str(error) or type(error).__name__)
            raise TransportError(f"GET {shown(url)}: {why} (tried {failures} times)") from error
        if after is None:
            # Jitter: many that failed together should not come back together.
            after = self._pause * 2 ** min(failures - 1, 10) * random.uniform(0.5, 1)
        STOP.get().wait(min(after, _LONGEST_WAIT))

    @contextlib.contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[http.client.HTTPResponse, str]]:
        """The answer with a status of 2xx, redirects followed, and the URL that it came from."""
        for name, value in headers.items():
            if not re.fullmatch(r"[!-~]+", name) or not re.fullmatch(r"[ -~]*", value):
                raise TransportError(f"the header {shown(name)!r} holds what no header may")  # a registry's token, say
        for _ in range(_REDIRECTS + 1):
            with self._ask(url, headers) as answer:
                if 200 <= answer.status < 300:
                    yield answer, url
                    return
                body = b""
                with contextlib.suppress(OSError, http.client.HTTPException):  # what it says is a nicety
                    for piece in _pieces(answer):
                        body += piece
                        if len(body) > _EXCERPT:
                            break
                location = answer.headers.get("Location")
                if answer.status not in (301, 302, 303, 307, 308) or location is None:
                    raise Refused(answer.status, url, answer.headers, body[:_EXCERPT])
                origin = self._origin(url)
                url = _joined(url, location)
                if self._origin(url) != origin:
                    # The password or token was meant for the one, and is nothing that the other should see.
                    headers = {k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie")}
                if origin[0] == "https" and self._origin(url)[0] == "http":
                    raise TransportError(f"a redirect from https to {shown(url)} is not followed")
        raise TransportError(f"GET {shown(url)}: more than {_REDIRECTS} redirects")

    @contextlib.contextmanager
    def _ask(self, url: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """One request, and its answer, of which the body is still to be read."""
        origin = self._origin(url)
        parts = urllib.parse.urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        stop, connection, answer = STOP.get(), self._connection(origin), None
        try:
            if connection.sock is None:
                connection.connect()
            with stop.watching(connection.sock):
                connection.request("GET", target, headers={"User-Agent": "thinwalls", **headers})
                answer = connection.getresponse()
                yield answer
        finally:
            if answer and answer.length == 0:
                answer.read()  # closes it: the connection is free again
            if answer and answer.isclosed() and not answer.will_close:
                with self._lock:
                    self._idle.setdefault(origin, []).append(connection)
            else:
                connection.close()
                if answer:
                    answer.close()

    def _connection(self, origin: tuple[str, str, int]) -> http.client.HTTPConnection:
        """A connection to there: one that was kept, if the other side has not closed it, or a new one."""
        while True:
            with self._lock:
                if not (kept := self._idle.get(origin)):
                    break
                connection = kept.pop()
            ready = select.poll()
            ready.register(connection.sock, select.POLLIN)
            if not ready.poll(0):
                return connection
            connection.close()
        scheme, host, port = origin
        near = (self._proxy.hostname or "", self._proxy.port or 3128) if self._proxy else (host, port)
        if scheme == "https":
            with self._lock:
                if self._tls is None:
                    self._tls = ssl.create_default_context()
                    if self._cafile:
                        self._tls.load_verify_locations(self._cafile)
            connection = http.client.HTTPSConnection(*near, timeout=self._patience, context=self._tls)
        else:
            connection = http.client.HTTPConnection(*near, timeout=self._patience)
        if self._proxy:
            connection.set_tunnel(host, port)
        connection.response_class = _Answer
        return connection

    def _origin(self, url: str) -> tuple[str, str, int]:
        """Scheme, host and port of a URL. Raises TransportError for one that is not to be asked."""
        try:
            if not _URL.fullmatch(url):
                raise ValueError(
                    "it is empty, too long, or holds a space, a control character or a letter beyond ASCII"
                )
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https"):
                raise ValueError("it is neither http nor https")
            if "@" in parts.netloc:
                raise ValueError("it holds a user or a password")
            if not REGISTRY.fullmatch(parts.netloc) or parts.hostname is None or parts.port == 0:
                raise ValueError("it has no host")
            if parts.scheme == "http" and not self._may_be_plain(parts.hostname, parts.netloc.lower()):
                raise ValueError(
                    f"it is not encrypted, and {parts.netloc} is not among the hosts where that is allowed"
                )
        except ValueError as error:
            raise TransportError(f"{shown(url)!r} is not asked: {error}") from None
        return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    def _may_be_plain(self, host: str, netloc: str) -> bool:
        return host in _LOOPBACK or host in self._plain or netloc in self._plain


def _joined(url: str, location: str) -> str:
    """Where a redirect leads; without the fragment, which is not for servers. What is no URL stays so."""
    try:
        return urllib.parse.urldefrag(urllib.parse.urljoin(url, location)).url if _URL.fullmatch(location) else location
    except ValueError:
        return location


def _place(answer: http.client.HTTPResponse, url: str, done: int, size: int | None) -> tuple[int, int | None]:
    """(bytes of this answer's body to skip, size of the whole) when `done` bytes are here already."""
    skip, whole = done, answer.length
    if answer.status == 206:
        said = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", "")
        )
        if not said or int(said[1]) != done:
            raise TransportError(f"GET {shown(url)}: bytes from {done} on were asked for, and others came")
        skip = 0
        whole = int(said[2]) if said[2] != "*" else None if whole is None else done + whole
    elif answer.status != 200:
        raise Refused(answer.status, url, answer.headers, b"")
    if size is not None and whole is not None and whole != size:
        raise TransportError(f"GET {shown(url)}: {whole} bytes announced, {size} expected")
    return skip, whole if size is None else size


def _retry_after(text: str) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3): a number of them, or a date."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


# Reading an answer


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes. Raises OSError or HTTPException where it breaks, unless only its length could tell."""
    return iter(lambda: answer.read1(PIECE), b"")


class _Answer(http.client.HTTPResponse):
    """http.client's, which bounds a line and not how many there are, nor how slowly they come."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp: io.BufferedReader = _Lines(_Wire(sock))


class _Lines(io.BufferedReader):
    """Lines are headers, lengths of chunks and trailers: so many between one piece of a body and the next, no more."""

    _left = _LINES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise TransportError(f"the answer has more than {_LINES >> 10} KiB of headers")
        return line

    def read1(self, size: int = -1, /) -> bytes:
        self._left = _LINES
        return super().read1(size)


class _Wire(io.RawIOBase):
    """The socket below. A time-out of the socket is for a silent one; this one is for those that drip."""

    def __init__(self, sock: socket.socket) -> None:
        self._inner = sock.makefile("rb", buffering=0)  # not the socket: http.client may close that before the end
        self._patience = sock.gettimeout() or 0.0
        self._waited, self._got = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.monotonic()
        got = self._inner.readinto(buffer)
        self._waited += time.monotonic() - began  # only the time in here: the caller may take its own
        self._got += got or 0
        if self._waited > self._patience:
            if self._got < _SLOWEST * self._waited:
                raise TimeoutError(f"the answer stalled: {self._got} bytes in {self._waited:.1f} s")
            self._waited, self._got = 0.0, 0
        return got

    def close(self) -> None:
        self._inner.close()
        super().close()
