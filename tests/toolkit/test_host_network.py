"""A throwaway host with a network: one cable, and at its other end the grader, which plays the internet."""

import pytest

from thinwalls.facts import Process
from thinwalls.grading.machine import Machine
from thinwalls.host import BEYOND, GATEWAY, HOST, Keeper

CALLER = """
import os, socket, subprocess

def connect(address, port):
    with socket.create_connection((address, port), 2) as sock:
        sock.sendall(b"hello from inside\\n")
        return sock.recv(100).decode()

def serve(port):
    with socket.create_server(("0.0.0.0", port)) as server:
        peer, address = server.accept()
        with peer:
            peer.sendall(address[0].encode())
    return address[0]

def forwards():
    with open("/proc/sys/net/ipv4/ip_forward") as setting:
        return int(setting.read())

def run(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=5).returncode
"""


@pytest.fixture(scope="module")
def keeper():
    with Keeper() as keeper:
        yield keeper


def host(keeper, network=True):
    files = {"/course/stages/__init__.py": "", "/course/stages/caller.py": CALLER}
    return Machine(keeper, "network", "1", files, network=network)


def test_what_goes_out_arrives_at_the_grader_with_the_hosts_address(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        for address in (BEYOND, GATEWAY):
            server = machine.listen(address)
            machine.call("caller.connect", address, server.getsockname()[1])
            peer, (seen, _) = server.accept()
            with peer:
                assert seen == HOST
                assert peer.recv(100) == b"hello from inside\n"
                peer.sendall(b"hello from beyond")
            assert machine.outcome().returned == "hello from beyond"


def test_the_grader_comes_in_from_beyond(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        machine.call("caller.serve", 8080)
        for _ in range(200):
            sock = machine.socket()
            try:
                sock.connect((HOST, 8080))
                break
            except ConnectionRefusedError:
                continue
        assert sock.recv(100).decode() == GATEWAY
        assert machine.outcome().returned == GATEWAY


def test_the_kernel_says_so_too(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        runner, outer = machine.runner, Process(machine._host.pid)
        assert runner.links() == ["lo", "uplink"]
        assert runner.addresses() == {"127.0.0.1", HOST}
        assert runner.gateway() == GATEWAY
        assert outer.addresses() == {"127.0.0.1", GATEWAY, BEYOND}
        assert outer.gateway() == ""


def test_nothing_is_passed_on_even_where_the_machine_itself_does(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        machine.call("caller.forwards")
        assert machine.outcome().returned == 0


def test_nothing_listens_beyond_but_what_the_grader_opened(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        machine.call("caller.connect", BEYOND, 80)
        assert machine.outcome().raised == "ConnectionRefusedError"


def test_whatever_is_done_to_the_cable_is_no_harm_to_the_grader(keeper):
    with host(keeper) as machine:
        machine.allow(10)
        machine.call("caller.run", "ip", "link", "delete", "uplink")
        assert machine.outcome().returned == 0
        server = machine.listen()
        with pytest.raises(OSError, match="a socket cannot be made"):
            machine.listen(BEYOND, server.getsockname()[1])


def test_without_it_there_is_only_lo(keeper):
    with host(keeper, network=False) as machine:
        machine.allow(10)
        assert machine.runner.links() == ["lo"]
        assert machine.runner.gateway() == ""
        machine.call("caller.connect", BEYOND, 80)
        assert machine.outcome().raised == "OSError"
