"""What passes between a throwaway host and the network of this machine: registries, and published ports; no more."""

import socket
import threading

import pytest

from thinwalls.door import Door, Published


@pytest.fixture
def service():
    """Something of this machine that answers whatever it is told with the same in capitals."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    while piece := peer.recv(65536):
                        peer.sendall(piece.upper())

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def through(door, request):
    """A connection to the door that has made this request, and the line that came back."""
    sock = socket.create_connection(door, 5)
    sock.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := sock.recv(1)):
        answer += piece
    return sock, answer.split(b"\r\n")[0].decode()


def opened(registry):
    listening = socket.create_server(("127.0.0.1", 0))
    return Door(listening, registry), listening.getsockname()


def test_the_registry_that_was_asked_for_is_reached_wherever_it_is(service):
    door, place = opened(f"127.0.0.1:{service}")
    with door:
        sock, status = through(place, f"CONNECT 127.0.0.1:{service} HTTP/1.1\r\n\r\n".encode())
        with sock:
            assert status == "HTTP/1.1 200 Connected"
            sock.sendall(b"hello")
            assert sock.recv(5) == b"HELLO"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "169.254.169.254", "10.0.0.1", "192.168.1.1"])
@pytest.mark.parametrize("port", [443, 0])
def test_nothing_else_at_a_private_address_is(service, host, port):
    door, place = opened("registry.example:5000")
    with door:
        sock, status = through(place, f"CONNECT {host}:{port or service} HTTP/1.1\r\n\r\n".encode())
        with sock:
            assert status == "HTTP/1.1 403 Forbidden"
            assert sock.recv(1) == b""
        assert door.refused == [f"{host}:{port or service}"]


def test_another_port_of_the_registrys_host_is_not_the_registry(service):
    door, place = opened("127.0.0.1:1")
    with door:
        sock, status = through(place, f"CONNECT 127.0.0.1:{service} HTTP/1.1\r\n\r\n".encode())
        sock.close()
        assert status == "HTTP/1.1 403 Forbidden"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT nowhere HTTP/1.1\r\n\r\n",
        b"CONNECT a:70000 HTTP/1.1\r\n\r\n",
        b"CONNECT \xff:443 HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"x" * 8192,
    ],
)
def test_what_is_no_such_request_is_refused(request_):
    door, place = opened("127.0.0.1:1")
    with door:
        sock, status = through(place, request_)
        sock.close()
        assert status == "HTTP/1.1 400 Bad Request"


def test_a_registry_that_does_not_answer_is_a_bad_gateway():
    door, place = opened("127.0.0.1:1")
    with door:
        sock, status = through(place, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
        sock.close()
        assert status == "HTTP/1.1 502 Bad Gateway"


def test_a_closed_door_cuts_off_who_is_in(service):
    door, place = opened(f"127.0.0.1:{service}")
    with door:
        sock, _ = through(place, f"CONNECT 127.0.0.1:{service} HTTP/1.1\r\n\r\n".encode())
    with sock:
        sock.settimeout(5)
        assert sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, 1)


def test_a_port_that_is_taken_cannot_be_published(service):
    with pytest.raises(OSError, match="in use"):
        Published(service, socket.socket)
