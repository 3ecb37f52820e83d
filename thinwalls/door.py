"""What passes between a throwaway host and the network of this machine: out to registries, and in to published ports.

Out, through a Door: a proxy beyond the host, through which the code in it reaches registries and no more. The host
itself has no way to this machine's network. It sees one address that takes HTTP's CONNECT (RFC 9110, 9.3.6); what is
said through it is encrypted from end to end, and none of the door's business. Let through are the registry that was
asked for, and any public address at the port of https, for registries send their callers elsewhere for the
blobs. Nothing at a private address, and no other service of this machine or of its neighbours.

In, through a Published port: one of this machine's loopback, whose connections go on as connections to the host.
"""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator

from thinwalls.host import HOST

PORT = 3128
_HTTPS = 443
_REQUEST = 8192  # bytes that a request may have
_PATIENCE = 30.0  # seconds to connect; and to ask
_PIECE = 65536
_AT_ONCE = 32  # connections


class Door:
    """A proxy on a listening socket, served by threads until it is closed. A context manager."""

    def __init__(self, listening: socket.socket, registry: str):
        """registry: the host, or host:port, that was asked for; it may be anywhere, also on this machine."""
        host, _, port = registry.rpartition(":") if registry.rpartition(":")[2].isdigit() else (registry, "", "")
        self._named = (host.strip("[]").lower(), int(port) if port else None)
        self._listening = listening
        self._places = threading.Semaphore(_AT_ONCE)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.refused: list[str] = []  # "host:port", the first few
        _thread(self._serve)

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let nobody in any more, and cut off who is."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            self._places.acquire()
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed
                return
            _thread(self._one, caller)

    def _one(self, caller: socket.socket) -> None:
        """Serve one connection, from its request to its end."""
        with self._held(caller):
            try:
                caller.settimeout(_PATIENCE)
                target = _asked(caller)
                if target is None:
                    caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                elif (there := self._reach(*target)) is None:
                    caller.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                else:
                    with self._held(there):
                        caller.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                        caller.settimeout(None)
                        there.settimeout(None)
                        back = _thread(_pass_on, there, caller)
                        _pass_on(caller, there)
                        back.join()
            except OSError:
                with contextlib.suppress(OSError):
                    caller.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            finally:
                self._places.release()

    @contextlib.contextmanager
    def _held(self, sock: socket.socket) -> Iterator[None]:
        """Close it at the end; until then close() can cut it off."""
        with self._lock:
            self._open.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _reach(self, host: str, port: int) -> socket.socket | None:
        """A connection to where somebody wants to go; None if that is not allowed. Raises OSError if it fails."""
        named = host.lower() == self._named[0] and port in (self._named[1] or _HTTPS, self._named[1] or 80)
        for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            # The very address that was looked at is connected to: a name may have another the next moment.
            if named or (port == _HTTPS and ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global):
                return socket.create_connection((str(address[0]), port), _PATIENCE)
        if len(self.refused) < 8:
            self.refused.append(f"{host}:{port}")
        return None


class Published:
    """A port of this machine's loopback that leads to the same port of a throwaway host. A context manager."""

    def __init__(self, port: int, reach: Callable[[], socket.socket]):
        """reach: gives a new socket that is to be connected from beyond the host. Raises OSError for a port that is taken."""
        self._listening = socket.create_server(("127.0.0.1", port), backlog=64)
        self._port, self._reach = port, reach
        _thread(self._serve)

    def __enter__(self) -> "Published":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:  # closed
                return
            _thread(self._one, caller)

    def _one(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError), self._reach() as there:
            there.settimeout(_PATIENCE)
            there.connect((HOST, self._port))
            there.settimeout(None)
            back = _thread(_pass_on, there, caller)
            _pass_on(caller, there)
            back.join()


def _asked(caller: socket.socket) -> tuple[str, int] | None:
    """Whom a request wants to be connected with; None if it is no such request."""
    request = b""
    while b"\r\n\r\n" not in request:
        piece = caller.recv(_REQUEST - len(request))
        if not piece:
            return None
        request += piece
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] != b"CONNECT" or not words[1].isascii():
        return None
    host, _, port = words[1].decode().rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() and int(port) < 65536 else None


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on, in one direction, until either end has enough."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _thread(work: Callable[..., None], *given: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=given, daemon=True)
    thread.start()
    return thread
