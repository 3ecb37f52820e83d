"""A registry on loopback, by the OCI distribution specification, that misbehaves when it is told to.

It is for tests: it serves what was added to it, writes down every request, and believes nobody's digest but its own.
It stays on the trusted side; what runs in a throwaway host sees no more of it than its port.
"""

import base64
import contextlib
import datetime
import fnmatch
import hashlib
import http.client
import http.server
import io
import json
import re
import secrets
import socket
import socketserver
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from . import images
from .images import Compression, Descriptor, Media

Kind = Literal[
    "status", "reset", "truncate", "stall", "slow", "expired", "redirect", "wrong", "endless", "no-length", "chunked",
    "no-range", "bad-range",
]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What somebody asked for. `headers` may be asked in any case of letters."""

    method: str
    path: str  # with the query
    headers: Mapping[str, str]


@dataclass
class Fault:
    """One way to misbehave. The fields after `times` are for the kinds that are named beside them."""

    pattern: str  # as in fnmatch, for the path without the query
    kind: Kind
    times: int  # how often still
    code: int = 503  # status, redirect (which takes 307 for it)
    headers: dict[str, str] = field(default_factory=dict)  # any: sent besides the others
    at: int = 0  # truncate, stall, reset: after so many bytes of the body; reset with -1: before any answer
    seconds: float = 60.0  # stall: for so long; slow: between two pieces
    piece: int = 1024  # slow: bytes of a piece
    to: str = ""  # redirect: a whole URL, or another registry's, whereupon the path is kept
    body: bytes | None = None  # wrong: these bytes; otherwise others of the same length


class Registry:
    """Serves from threads of this process, from its making until close(); use it in a `with`."""

    def __init__(
        self,
        listening: socket.socket | None = None,
        token: bool = False,
        credentials: tuple[str, str] | None = None,
        token_seconds: float = 300,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Serve on a socket that listens already (it is closed at the end), or on a port of 127.0.0.1.

        `token`: nothing without a Bearer token, which anybody gets; `credentials`: user and password, without which
        nobody gets one. `token_seconds`: for how long one is good.
        """
        self.requests: list[Request] = []
        self.connections = 0  # so far
        self.faults: list[Fault] = []
        self.challenge = ""  # if set, the WWW-Authenticate of every 401
        self.token_seconds = token_seconds
        self._token, self._credentials = token or credentials is not None, credentials
        self._blobs: dict[str, bytes | Path] = {}
        self._manifests: dict[tuple[str, str], tuple[str, str, bytes]] = {}  # (repo, tag or digest): type, digest, body
        self._tokens: dict[str, tuple[str, float]] = {}  # token: scope, until when
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(listening or socket.create_server(("127.0.0.1", 0)), self, tls)
        host, port = self._server.socket.getsockname()[:2]
        self.host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # as in an image's name
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; connections break off."""
        self.closing.set()
        self._server.shutdown()
        self._server.break_off()
        self._server.server_close()
        self._thread.join()

    # What it holds

    def add_blob(self, blob: bytes | Path, media_type: str = "application/octet-stream") -> Descriptor:
        """Hold these bytes, or this file, which is never loaded as a whole. Every repository has every blob."""
        found = images.describe(blob, media_type)
        self._blobs[found["digest"]] = blob
        return found

    def add_manifest(
        self, repo: str, tag: str, manifest: Mapping[str, Any] | bytes, media_type: str = images.MANIFEST["oci"]
    ) -> Descriptor:
        """Hold a manifest or an index under its digest and, unless it is "", under a tag."""
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest, indent=1).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name in {digest, tag or digest}:
            self._manifests[repo, name] = media_type, digest, body
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def add_image(
        self,
        repo: str,
        tag: str,
        layers: Sequence[bytes | Path],
        config: Mapping[str, Any] | None = None,
        compression: Compression = "gzip",
        media: Media = "oci",
        platform: str = images.HERE,
    ) -> Descriptor:
        """Hold an image, and give its manifest's descriptor with the platform in it, fit for add_index().

        `layers`: from the lowest up, bytes of a tar archive, which are packed here, or a file that is packed already.
        `config`: Entrypoint, Cmd, Env, WorkingDir, User. `platform`: os/architecture or os/architecture/variant.
        """
        blobs, manifest, where = images.build(layers, config or {}, compression, media, platform)
        for descriptor, blob in blobs:
            self._blobs[descriptor["digest"]] = blob
        return {**self.add_manifest(repo, tag, manifest, images.MANIFEST[media]), "platform": where}

    def add_index(self, repo: str, tag: str, manifests: Sequence[Descriptor], media: Media = "oci") -> Descriptor:
        """Hold an index over what add_image() gave, in this order."""
        index = {"schemaVersion": 2, "mediaType": images.INDEX[media], "manifests": list(manifests)}
        return self.add_manifest(repo, tag, index, images.INDEX[media])

    # How it misbehaves

    def misbehave(self, pattern: str, kind: Kind, times: int = 1, **how: Any) -> Fault:
        """Answer so the next `times` requests whose path fits the pattern (/v2/*/blobs/*, say); see Fault for `how`.

        status: with this code and no more. reset: the connection is reset. truncate: the body ends early. stall: it
        stops, slow: it comes in drops. expired: 401, and every token so far is worthless. redirect: elsewhere. wrong:
        other bytes. endless: a body without end. no-length: it ends with the connection, chunked: in chunks. no-range:
        all of it, whatever was asked. bad-range: one byte beside what was asked.
        """
        fault = Fault(pattern, kind, times, **how)
        with self._lock:
            self.faults.append(fault)
        return fault

    def break_off(self) -> None:
        """Every connection breaks off now, one that stalls too; whoever asks again is served."""
        self._server.break_off()

    def expire_tokens(self) -> None:
        """Every token given so far is worthless from now on."""
        with self._lock:
            self._tokens.clear()

    def asked(self, pattern: str = "*") -> list[Request]:
        """The requests so far whose path, without the query, fits the pattern."""
        return [
            request for request in list(self.requests) if fnmatch.fnmatchcase(request.path.partition("?")[0], pattern)
        ]

    # For the threads that answer

    def fault(self, path: str) -> Fault | None:
        """How to misbehave this time."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fnmatch.fnmatchcase(path, fault.pattern):
                    fault.times -= 1
                    return fault
        return None

    def manifest(self, repo: str, name: str) -> tuple[str, str, bytes] | None:
        """(media type, digest, body) of a manifest by tag or digest."""
        return self._manifests.get((repo, name))

    def tags(self, repo: str) -> list[str]:
        """The tags of a repository."""
        return sorted(name for where, name in list(self._manifests) if where == repo and not name.startswith("sha256:"))

    def blob(self, digest: str) -> bytes | Path | None:
        """What is held under this digest."""
        return self._blobs.get(digest)

    def welcomes(self, authorization: str, repo: str) -> bool:
        """Whether a request that says this of itself may read from a repository ("" for none in particular)."""
        scope, until = self._tokens.get(authorization.removeprefix("Bearer "), ("", 0.0))
        good = time.monotonic() < until and (not repo or f"repository:{repo}:pull" in scope.split())
        return good or not self._token

    def new_token(self, authorization: str, scope: str) -> str | None:
        """A token for this scope; None for one who does not know the password."""
        if self._credentials:
            expected = "Basic " + base64.b64encode(":".join(self._credentials).encode()).decode()
            if not secrets.compare_digest(authorization.encode(), expected.encode()):
                return None
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = scope, time.monotonic() + self.token_seconds
        return token


# Answering


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, registry: Registry, tls: ssl.SSLContext | None) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.registry, self._tls = listening, registry, tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: a client that is slow to shake hands keeps nobody else waiting.
        with self._lock:
            self._open.add(request)
            self.registry.connections += 1
        try:
            request.settimeout(60)
            if self._tls:
                with self._tls.wrap_socket(request, server_side=True, suppress_ragged_eofs=True) as wrapped:
                    with self._lock:
                        self._open.add(wrapped)
                    _Handler(wrapped, client_address, self)
            else:
                _Handler(request, client_address, self)
        except (OSError, ValueError):  # the client went away, or was sent away
            pass
        finally:
            with self._lock:
                self._open.discard(request)

    def shutdown_request(self, request: Any) -> None:
        request.close()  # and no shutdown before it: a reset is to be a reset, not an end and then a reset

    def break_off(self) -> None:
        """Wake every thread that waits for its client."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    server_version, sys_version = "thinwalls", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the requests are in the registry's list."""

    def do_GET(self) -> None:
        registry = self.server.registry
        headers = cast(http.client.HTTPMessage, self.headers)
        registry.requests.append(Request(self.command, self.path, headers))  # type: ignore[arg-type]
        path = urllib.parse.urlsplit(self.path).path
        self.trouble = registry.fault(path) or Fault("", "status", 0, 0)
        trouble = self.trouble
        if trouble.kind == "status" and trouble.code:
            self._error(trouble.code, "TOOMANYREQUESTS" if trouble.code == 429 else "UNAVAILABLE")
        elif trouble.kind == "redirect":
            to = trouble.to if urllib.parse.urlsplit(trouble.to).path else trouble.to + self.path
            self._send(307 if trouble.code == 503 else trouble.code, {"Location": to}, b"")
        elif trouble.kind == "expired":
            registry.expire_tokens()
            self._unauthorized(path)
        elif trouble.kind == "reset" and trouble.at < 0:
            self._reset()
        elif path == "/token":
            self._give_token()
        elif path.startswith("/v2/"):
            self._registry(registry, path)
        else:
            self._error(404, "NOT_FOUND")

    do_HEAD = do_GET

    def _registry(self, registry: Registry, path: str) -> None:
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)", path)
        repo = found[1] if found else ""
        if not registry.welcomes(self.headers.get("Authorization", ""), repo):
            self._unauthorized(path)
        elif path == "/v2/":
            self._send(200, {"Content-Type": "application/json"}, b"{}")
        elif found and found[2] == "manifests":
            self._manifest(registry.manifest(repo, found[3]))
        elif found and found[2] == "blobs":
            blob = registry.blob(found[3])
            if blob is None:
                self._error(404, "BLOB_UNKNOWN")
            else:
                self._send(200, {"Docker-Content-Digest": found[3], "Content-Type": "application/octet-stream"}, blob)
        elif found and found[3] == "list" and registry.tags(repo):
            self._send(
                200,
                {"Content-Type": "application/json"},
                json.dumps({"name": repo, "tags": registry.tags(repo)}).encode(),
            )
        else:
            self._error(404, "NAME_UNKNOWN")

    def _manifest(self, manifest: tuple[str, str, bytes] | None) -> None:
        if manifest is None:
            return self._error(404, "MANIFEST_UNKNOWN")
        media_type, digest, body = manifest
        accepted = [one.partition(";")[0].strip() for one in ",".join(self.headers.get_all("Accept", [])).split(",")]
        if accepted != [""] and not {media_type, "*/*", "application/*"} & set(accepted):
            return self._error(404, "MANIFEST_UNKNOWN", f"it is {media_type}, which Accept does not name")
        self._send(200, {"Docker-Content-Digest": digest, "Content-Type": media_type}, body)

    def _give_token(self) -> None:
        registry = self.server.registry
        scope = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("scope", [""])[0]
        token = registry.new_token(self.headers.get("Authorization", ""), scope)
        if token is None:
            return self._error(401, "UNAUTHORIZED", "wrong user or password")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        answer = {"token": token, "access_token": token, "expires_in": int(registry.token_seconds), "issued_at": now}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _unauthorized(self, path: str) -> None:
        registry = self.server.registry
        found = re.match(r"/v2/(.+)/(?:manifests|blobs|tags)/", path)
        challenge = f'Bearer realm="{registry.url}/token",service="{registry.host}"'
        challenge += f',scope="repository:{found[1]}:pull"' if found else ""
        self._error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": registry.challenge or challenge})

    def _error(self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message or code.lower().replace("_", " ")}]}).encode()
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, body)

    def _send(self, status: int, headers: Mapping[str, str], blob: bytes | Path) -> None:
        """Send a status, headers and a body, or the part of it that Range asks for, with the trouble of this time."""
        trouble = self.trouble
        size = len(blob) if isinstance(blob, bytes) else blob.stat().st_size
        if trouble.kind == "wrong":
            blob = trouble.body if trouble.body is not None else secrets.token_bytes(size)
            size = len(blob)
        start, end, more = 0, size, {}
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if asked and status == 200 and trouble.kind != "no-range":
            start, end = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size)
            if start >= end:
                status, start, end, more = 416, 0, 0, {"Content-Range": f"bytes */{size}"}
            else:
                start -= trouble.kind == "bad-range"
                status, more = 206, {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
        self.send_response(status)
        if trouble.kind in ("endless", "no-length"):
            self.close_connection = True
            more["Connection"] = "close"
        elif trouble.kind == "chunked":
            more["Transfer-Encoding"] = "chunked"
        else:
            more["Content-Length"] = str(end - start)
        for name, value in {**headers, **more, **trouble.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with images.opened(blob) as file:
                self._body(file, start, end - start)

    def _body(self, file: BinaryIO, start: int, count: int) -> None:
        trouble = self.trouble
        file.seek(start)
        if trouble.kind in ("truncate", "stall", "reset"):
            self.wfile.write(file.read(min(trouble.at, count)))
            if trouble.kind == "stall":
                self.server.registry.closing.wait(trouble.seconds)
            if trouble.kind == "reset":
                self._reset()
            self.close_connection = True
        elif trouble.kind in ("slow", "chunked"):
            while count and (piece := file.read(min(trouble.piece, count))):
                count -= len(piece)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if trouble.kind == "chunked" else piece)
                if trouble.kind == "slow" and self.server.registry.closing.wait(trouble.seconds):
                    self.close_connection = True
                    return
            if trouble.kind == "chunked":
                self.wfile.write(b"0\r\n\r\n")
        elif trouble.kind == "endless":
            while True:
                self.wfile.write(bytes(images.BLOCK))
        elif not isinstance(file, io.BytesIO) and not isinstance(self.connection, ssl.SSLSocket):
            if count:
                self.connection.sendfile(file, start, count)
        else:
            while count and (piece := file.read(min(images.BLOCK, count))):
                count -= len(piece)
                self.wfile.write(piece)

    def _reset(self) -> None:
        """End the connection with a RST: closing a socket that must not linger."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
