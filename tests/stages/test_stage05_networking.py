"""Stage 5, the network namespace: what is asked of it. How to read these tests: see the top of test_stage00_process.py.

Containers here have the machine's own root, so that they have its Python, and are launched `beside` the process that
calls them, so that the machine can do something at the same time. TALK is what they, and the machine, talk with.
"""

import http.client
import os
import re
import signal
import sys

import pytest

from thinwalls.addresses import GATEWAY_MAC
from thinwalls.facts import Process
from thinwalls.grading.machine import Failure
from thinwalls.host import BEYOND, GATEWAY, HOST

LAUNCH, NETWORK, ISOLATED = "stage00_process.launch", "stage05_networking.Network", "stage05_networking.Isolated"
BRIDGE = "10.57.0.1"  # the machine, as containers know it
OTHER = "192.0.2.3"  # a second address that the machine is given
PYTHON = f"{os.path.realpath(f'{sys.base_prefix}/bin/python3')} -IS /srv/talk"
TALK = """
import sys
from _socket import *  # what Python's module socket is made of: it starts in half the time, and is started often

def listening(address, port):
    server = socket()
    server.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    server.bind((address, int(port)))
    server.listen()
    print("ready", flush=True)
    return server

def accepted(server):
    number, address = server._accept()
    return socket(fileno=number), address

def serve(port, word, address=""):  # tell everybody a word, and the address that he comes from
    server = listening(address, port)
    while True:
        peer, (address, _) = accepted(server)
        peer.sendall(f"{word} {address}\\n".encode())
        peer.close()

def http(port, word):  # the same on the Web
    server = listening("", port)
    while True:
        peer, (address, _) = accepted(server)
        if peer.recv(1000):
            peer.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\n{word} {address}".encode())
        peer.close()

def said(address, port, request="", own=""):  # all that one is told there, calling from an address of one's own
    peer = socket()
    peer.settimeout(1)
    peer.bind((own, 0))
    peer.connect((address, int(port)))
    peer.sendall(request.encode())
    return b"".join(iter(lambda: peer.recv(1000), b"")).decode()

def ask(address, port, own=""):
    try:
        print(said(address, port, "", own).strip() or "nothing", flush=True)
    except OSError as error:
        print("nobody can be reached:", error, flush=True)

def browse(address, port):
    try:
        print(said(address, port, "GET / HTTP/1.0\\r\\n\\r\\n").rpartition("\\r\\n\\r\\n")[2], flush=True)
    except OSError as error:
        print("nobody can be reached:", error, flush=True)

def obey(name):  # make a file for each word that comes over an abstract Unix socket
    service = socket(AF_UNIX)
    service.bind("\\0" + name)
    service.listen()
    print("ready", flush=True)
    while True:
        peer, _ = accepted(service)
        if word := peer.recv(100).decode().rpartition("/")[2]:
            open(f"/srv/{word}", "x").close()
        peer.close()

def bind(port):  # say whether a port is free
    try:
        socket().bind(("", int(port)))
        print("it is free", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)

def knock(name):
    print(socket(AF_UNIX).connect_ex("\\0" + name) and "nobody" or "somebody", flush=True)

globals()[sys.argv[1]](*sys.argv[2:])
"""


@pytest.mark.task("5.1")
def test_it_has_a_network_of_its_own_with_nothing_but_lo(machine):
    _prepare(machine)
    word, port, namespaces = machine.word(), _port(machine), machine.runner.namespaces()
    machine.did("launched a shell behind Isolated()")
    machine.call(LAUNCH, machine.probe(), [machine.made(ISOLATED), machine.beacon("next")])
    step = machine.step(or_hello=True)  # outside() of the wall after it, while the child waits
    waits = machine.names(step.told) if step else 0
    early = waits != 0 and Process(waits).namespaces()["net"] != namespaces["net"]
    probe = machine.meet()
    own = probe.process.namespaces()
    new = sorted(name for name in own if own[name] != namespaces[name])
    machine.expect(
        "it has a network namespace of its own, and shares the others",
        new == ["net"],
        ", ".join(new) or "none",
        "the class's flags say into which namespaces the child is born: CLONE_NEWNET",
    )
    machine.expect(
        "it has it from the beginning, when outside() is called",
        early,
        "it has" if early else "it has not",
        "a cable is plugged in by outside(): the class's flags ask for the namespace, inside() is too late for it",
    )
    links = probe.process.links()
    machine.expect("there is lo and no other device", links == ["lo"], ", ".join(links))
    up = "127.0.0.1" in probe.process.addresses()
    machine.expect(
        "lo is up", up, "it is" if up else "it is down", "a new namespace's lo is down: linux.set_link_up, in inside()"
    )
    probe.ask(f"{PYTHON} serve {port} {word} &")
    answer = probe.ask(f"{PYTHON} ask 127.0.0.1 {port}")
    machine.expect("it reaches itself at 127.0.0.1", answer == f"{word} 127.0.0.1", answer)
    probe.tell("kill $!; exit 7")
    outcome = machine.outcome()
    machine.expect("launch() returns the exit status", outcome.returned == 7, outcome)


@pytest.mark.task("5.2")
def test_machine_and_container_reach_each_other_over_a_cable(machine):
    _prepare(machine)
    word, port = machine.word(), _port(machine)
    machine.do(["sh", "-c", f"ip link add eth0 type veth peer name {machine.word()} && echo done"])
    machine.line()
    before = machine.runner.links()
    machine.did(
        "launched a shell behind Network(), which leaves a process behind, on a machine with an eth0 of its own"
    )
    launcher, probe = _container(machine)
    links = probe.process.links()
    machine.expect(
        "it has lo and eth0",
        sorted(links) == ["eth0", "lo"],
        ", ".join(links),
        "is plug_in() called, in outside()? It says in which process's network the other end is born, and its name",
    )
    address = _address(machine, probe)
    found, lease = _hardware(machine, probe), f"02:57:0a:39:00:{int(address.rpartition('.')[2]):02x}"
    machine.expect(
        "its eth0 has the hardware address of the lease",
        found == lease,
        f"{found}, where self.lease.mac is {lease}",
        "each end has one of its own: that of the other end stands after `peer`",
    )
    yours = ", ".join(sorted(machine.runner.addresses()))
    machine.expect(f"the machine has the address {BRIDGE}", BRIDGE in machine.runner.addresses(), yours)
    _serve(machine, port, word)
    answer = probe.ask(f"{PYTHON} ask {BRIDGE} {port}")
    both = "both ends of the cable have to be switched on, each on its side"
    machine.expect(
        "the container reaches a service of the machine, as itself", answer == f"{word} {address}", answer, both
    )
    probe.ask(f"{PYTHON} serve {port} {word} &")
    answer = _ask(machine, address, port)
    machine.expect("the machine reaches a service of the container", answer == f"{word} {BRIDGE}", answer)
    answer = probe.ask(f"{PYTHON} ask 127.0.0.1 {port}")
    machine.expect(
        "the container reaches that service at 127.0.0.1 too",
        answer == f"{word} 127.0.0.1",
        answer,
        "its lo is down: Network's inside() begins with Isolated's, super().inside()",
    )
    probe.tell("kill $!; sleep 1000 & exit 0")
    _ended(machine, launcher)
    _as_before(machine, before)

    machine.did("launched another, killed its launcher, but not the shell, and launched a third")
    launcher, orphan = _container(machine)
    machine.send(launcher.pid, signal.SIGKILL)
    launcher.ended(1)
    third, probe = _container(
        machine, maybe="the name is free to be used, and the dead one's cable has it: remove() in outside(), first"
    )
    answer = probe.ask(f"{PYTHON} ask {BRIDGE} {port}")
    machine.expect("the third reaches the machine", answer == f"{word} {_address(machine, probe)}", answer)
    orphan.tell("exit 0")
    probe.tell("exit 0")
    _ended(machine, third)
    _as_before(machine, before)

    for fails in machine.random.sample(sorted(SCENES), len(SCENES)):
        machine.did(f"had a start fail: {SCENES[fails]}")
        machine.call(LAUNCH, machine.program(["/no/such"] if fails == "exec" else ["true"]), _failing(machine, fails))
        outcome = machine.outcome()
        expected = "FileNotFoundError" if fails == "exec" else "WallBroke"
        machine.expect(f"launch() raises {expected}", outcome.raised == expected, outcome)
        _as_before(machine, before)


@pytest.mark.task("5.3")
def test_two_containers_reach_each_other_over_a_bridge(machine):
    _prepare(machine)
    word, port, before = machine.word(), _port(machine), machine.runner.links()
    machine.did("launched two shells behind a Network() each")
    launchers, probes = zip(*(_container(machine) for _ in range(2)), strict=True)
    addresses = [_address(machine, probe) for probe in probes]
    machine.expect("they have different addresses", addresses[0] != addresses[1], " and ".join(addresses))
    links = machine.runner.links()
    machine.expect("the machine has a bridge walls0", "walls0" in links, ", ".join(links))
    machine.do(["sh", "-c", "ip -o link show walls0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'"])
    found = machine.line()
    machine.expect(
        f"the bridge has the hardware address {GATEWAY_MAC}",
        found == GATEWAY_MAC,
        found,
        "a bridge that is given none takes one of its ports', and another one when that port goes",
    )
    probes[0].ask(f"{PYTHON} serve {port} {word} &")
    answer = probes[1].ask(f"{PYTHON} ask {addresses[0]} {port}")
    machine.expect(
        "one reaches a service of the other",
        answer == f"{word} {addresses[1]}",
        answer,
        "are both cables plugged into the bridge (master), and is the bridge up? Between containers nothing is "
        "masqueraded",
    )
    answer = _ask(machine, addresses[0], port)
    machine.expect(
        "the machine reaches both",
        answer == f"{word} {BRIDGE}",
        answer,
        "the machine's address belongs to the bridge: greet() is called with what attach() gives",
    )

    machine.did("ended one of them, and launched a third")
    probes[1].tell("exit 0")
    _ended(machine, launchers[1])
    there = "walls0" in machine.runner.links()
    machine.expect(
        "the bridge is still there",
        there,
        "it is" if there else "it is gone",
        "addresses.in_use() knows whether anybody is left to need it",
    )
    launcher, probe = _container(machine)
    answer = probe.ask(f"{PYTHON} ask {addresses[0]} {port}")
    machine.expect("the third reaches the first", answer == f"{word} {_address(machine, probe)}", answer)
    probe.tell("exit 0")
    probes[0].tell("kill $!; exit 0")
    _ended(machine, launcher)
    _ended(machine, launchers[0])
    _as_before(machine, before)


@pytest.mark.task("5.4")
def test_it_reaches_what_lies_beyond_and_is_seen_there_as_the_machine(machine):
    _prepare(machine)
    word, table, card = machine.word(), f"table inet {machine.word()}", f"card{machine.random.randint(10, 99)}"
    server = machine.listen()
    port = server.getsockname()[1]
    script = (
        f"ip link set uplink down && ip link set uplink name {card} && ip link set {card} up && ip route add default "
        f"via {GATEWAY} && ip address add {OTHER}/32 dev {card} && nft add {table} && echo done"
    )
    machine.do(["sh", "-c", script])
    machine.line()
    machine.did(
        f"launched a shell behind Network(), on a machine whose way out is called {card} and whose packet filter has a "
        f"table, and had it ask a service at {BEYOND}, far beyond the machine"
    )
    launcher, probe = _container(machine)
    gateway = probe.process.gateway()
    machine.expect(f"its default route leads to {BRIDGE}", gateway == BRIDGE, gateway or "it has none")
    probe.tell(f"{PYTHON} ask {BEYOND} {port}")
    seen = _accepts(server, word)
    machine.expect(
        f"it arrives there, with the machine's address {HOST}",
        seen == HOST,
        seen or "nothing arrives",
        "does the machine pass on packets at all (ip_forward)? Nobody beyond knows the way back to a container: "
        "masquerade, by whatever device it leaves, if that is not the bridge",
    )
    answer = machine.line(probe.says)
    machine.expect("the answer comes back", answer == word, answer)
    tables = _tables(machine)
    _is_left(machine, table, tables)
    own = [line.removesuffix(" {") for line in tables if line.startswith("table") and not line.startswith(table)]
    name = f"table ip walls{_address(machine, probe).rpartition('.')[2]}"
    machine.expect(
        f"it has one table, of the family ip and with the name of the lease: {name}",
        own == [name],
        ", ".join(own) or "none",
    )
    machine.do([*PYTHON.split(), "ask", BEYOND, str(port), OTHER])
    seen = _accepts(server, word)
    machine.expect(
        f"the machine itself, which calls from its other address {OTHER}, is seen with that",
        seen == OTHER,
        seen or "nothing arrives",
        "what is not the container's is nobody's business: the rule is for ip saddr self.lease.address alone",
    )
    machine.line()
    probe.ask(f"{PYTHON} serve {port} {word} &")
    answer = _ask(machine, _address(machine, probe), port, "ask", HOST)
    machine.expect(
        f"the container sees the machine, which calls from {HOST}, with that address",
        answer == f"{word} {HOST}",
        answer,
        "what is not the container's is nobody's business: the rule is for ip saddr self.lease.address alone",
    )
    machine.did("launched another, whose route to the first leads over the machine")
    neighbour, other = _container(machine)
    own = _address(machine, probe)
    other.ask(f"ip route add {own}/32 via {BRIDGE} && echo done")
    answer, address = other.ask(f"{PYTHON} ask {own} {port}"), _address(machine, other)
    machine.expect(
        "the first sees the other with its own address",
        answer == f"{word} {address}",
        answer,
        "what leaves by the bridge goes to a container or the machine, which know the way back: masquerade only what "
        "leaves by another device",
    )
    other.tell("exit 0")
    _ended(machine, neighbour)
    probe.tell("kill $!")

    machine.did("killed its launcher, and launched another, which has the same address")
    machine.send(launcher.pid, signal.SIGKILL)
    launcher.ended(1)
    orphan, (launcher, probe) = probe, _container(machine)
    rules = len(_tables(machine))
    machine.expect(
        "the packet filter has as many lines as with the first",
        rules == len(tables),
        f"{rules}, where it had {len(tables)}",
        "a table that exists is not made anew but added to: delete it in the same ruleset",
    )
    probe.tell(f"{PYTHON} ask {BEYOND} {port}")
    machine.expect("it too is seen as the machine", _accepts(server, word) == HOST, "it is not")
    machine.line(probe.says)
    orphan.tell("exit 0")
    probe.tell("exit 0")
    _ended(machine, launcher)
    _is_left(machine, table, _tables(machine))
    _no_table(machine, table)
    machine.do(["cat", "/proc/sys/net/ipv4/ip_forward"])
    passes = machine.line()
    machine.expect(
        "the machine still passes on packets: ip_forward is 1",
        passes == "1",
        passes,
        "it is a setting of the whole machine, and others may need it by now: it stays",
    )

    machine.did("had a start fail before outside() of Network() was called")
    machine.call(LAUNCH, machine.program(["true"]), _failing(machine, "before"))
    outcome = machine.outcome()
    machine.expect(
        "launch() raises WallBroke", outcome.raised == "WallBroke", outcome, "nft refuses to delete what is not there"
    )
    _no_table(machine, table)


@pytest.mark.task("5.5")
def test_a_published_port_is_answered_by_the_container(machine):
    _prepare(machine)
    word, (first, second, inside) = machine.word(), machine.random.sample(range(2000, 9000), 3)
    before = machine.runner.links()
    machine.did(
        f"launched a shell behind Network(ports=[({first}, {inside}), ({second}, {inside})]), and a Web server in it"
    )
    launcher, probe = _container(machine, [[first, inside], [second, inside]])
    probe.ask(f"{PYTHON} http {inside} {word} &")
    for port in (first, second):
        answer, own = _web(machine, port)
        machine.expect(
            f"the server answers a browser from beyond at port {port}, and sees the browser's own address",
            answer == f"{word} {own}",
            answer,
            "dnat, in a chain at prerouting; what is masqueraded must be what the container begins, and nothing else"
            if port == first
            else "a rule for each pair of self.ports, in both chains",
        )
    answer = _ask(machine, "127.0.0.1", first)
    machine.expect(
        "at 127.0.0.1 the machine is refused at once",
        "refused" in answer,
        answer,
        "the rules leave out 127.0.0.0/8, and nobody listens on the socket that holds the port",
    )
    answer = _ask(machine, HOST, first, "browse")
    machine.expect(
        f"the machine itself reaches it at {HOST} too",
        answer == f"{word} {HOST}",
        answer,
        "what the machine itself sends does not come by prerouting: a chain at output",
    )

    server, far = machine.listen(port=first), machine.word()
    machine.did(f"had a service at {BEYOND}, far beyond the machine, listen on a port of the same number")
    machine.do([*PYTHON.split(), "ask", BEYOND, str(first)])
    _is_not_turned(machine, server, far, "the machine", 1)
    neighbour, other = _container(machine)
    other.tell(f"{PYTHON} ask {BEYOND} {first}")
    _is_not_turned(machine, server, far, "another container", other.says)
    other.tell("exit 0")
    _ended(machine, neighbour)

    machine.did(f"had a program of the machine ask for port {second}, which is published")
    machine.do([*PYTHON.split(), "bind", str(second)])
    answer = machine.line()
    machine.expect(
        "the port is taken",
        answer == "Address already in use",
        answer,
        "no socket is bound to it: without one, a published port takes the place of whoever listens there. "
        "hold_ports(), in outside(), and the sockets stay open until close()",
    )
    machine.did(f"launched another container with port {second} of the machine")
    _taken(machine, second, inside, "your socket has the port, and lets another have it too: that is SO_REUSEADDR")
    probe.tell("kill $!; exit 0")
    _ended(machine, launcher)
    _as_before(machine, before)
    _no_table(machine)
    answer, _ = _web(machine, first)
    machine.expect("at the end the port is closed", "refused" in answer, answer)

    machine.did(f"had a service of the machine listen on port {first} of {HOST}, and asked for that port")
    _serve(machine, first, word, HOST)
    number = _device_number(machine)
    _taken(
        machine,
        first,
        inside,
        f'your socket has the port at some addresses only, and {HOST} is another one of the machine: "" is all of them',
        [[second, inside], [first, inside]],
    )
    made = _device_number(machine) - number - 1
    machine.expect(
        "nothing was made for it, as the kernel's numbers of devices tell: each new one has the next",
        made == 0,
        f"{made} device{'s' if made > 1 else ''} of the machine",
        "who may refuse comes first: hold_ports(), before all else in outside()",
    )
    _as_before(machine, before)
    _no_table(machine)
    answer = _ask(machine, HOST, first)
    machine.expect("the service goes on", answer == f"{word} {HOST}", answer)
    machine.did(f"asked for port {second} once more")
    launcher, probe = _container(
        machine, [[second, inside]], maybe="close() gives back all ports, also after a failed start"
    )
    probe.tell("exit 0")
    _ended(machine, launcher)


@pytest.mark.task("5.6")
def test_it_knows_its_own_name_and_who_resolves_others(machine):
    name, servers = (
        machine.word(),
        [f"198.51.100.{machine.random.randint(1, 99)}", f"2001:db8::{machine.random.randint(1, 99)}"],
    )
    etc, secret = f"{machine.rootfs}/etc", f"/var/{machine.word()}"
    machine.plant("/etc/resolv.conf", "# nameserver 192.0.2.9\nnameserver 127.0.0.53\noptions edns0\n")
    lines = "".join(f"nameserver {each}\n" for each in [servers[0], "::1", servers[1]])
    machine.plant("/run/systemd/resolve/resolv.conf", f"search lan\n{lines}")
    machine.did("launched a shell behind Filesystem() and Names(), which has no eth0")
    machine.call(LAUNCH, machine.probe(), _named(machine, name))
    probe = machine.meet()
    _knows(machine, probe, name, "127.0.1.1", servers)
    probe.tell("exit 0")
    machine.outcome()

    machine.plant(secret, "untouched\n")
    machine.call("stage00_process.run", machine.program(["rm", *(f"{etc}/{each}" for each in FILES)]))
    machine.outcome()
    machine.link(f"{etc}/hosts", f"../../../..{secret}")
    machine.link(f"{etc}/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    machine.call("stage00_process.run", machine.program(["mkfifo", f"{etc}/hostname"]))
    machine.outcome()
    machine.did(
        "planted an image whose /etc/hosts is a link that leads outside, /etc/resolv.conf one that leads nowhere and "
        "/etc/hostname a FIFO; launched one from that, behind Network() too"
    )
    launcher, probe = _container(machine, [], *_named(machine, name), maybe="a FIFO waits for a reader: replace it")
    _knows(machine, probe, name, _address(machine, probe), servers)
    size = machine.runner.look(secret).st_size
    machine.expect("the machine's own file is untouched", size == 10, f"it has {size} bytes")
    probe.tell("exit 0")
    _ended(machine, launcher)

    volume, word = f"/srv/{machine.word()}", machine.word()
    machine.plant(f"{volume}/hosts", f"{word}\n")
    machine.plant("/etc/resolv.conf", f"nameserver {servers[1]}\n")
    for target, given, title in (
        ("/etc/hosts", f"{volume}/hosts", "the file /etc/hosts"),
        ("/etc", volume, "the directory /etc"),
    ):
        machine.did(f"launched one without Network(), that has {title} as a volume")
        walls = _named(machine, name, machine.made("stage03_mount_namespace.Volume", given, target))
        machine.call(LAUNCH, machine.probe(), walls)
        probe = machine.meet(maybe="nothing can be renamed to where a file is mounted: EBUSY")
        found = probe.ask("echo $(cat /etc/hosts)")
        machine.expect(
            "the volume is as it was",
            found == word,
            found,
            "os.path.ismount() does not see a directory of the same file system that is mounted: openat2 does, with "
            "RESOLVE_NO_XDEV"
            if target == "/etc"
            else "",
        )
        names = probe.ask("echo $(ls -A /etc)")
        left = names == "hosts" if target == "/etc" else not re.search(r"(?<!\S)\.", names)
        machine.expect("nothing else was left in /etc", left, names)
        if target != "/etc":
            found = probe.ask("echo $(cat /etc/hostname)")
            machine.expect("the other files are its own", found == name, found)
            found = probe.ask("echo $(cat /etc/resolv.conf)")
            machine.expect(
                f"its /etc/resolv.conf is what the machine's first file now says: nameserver {servers[1]}",
                found == f"nameserver {servers[1]}",
                found,
                "the second of RESOLVERS is only asked if nothing is left of the first",
            )
        probe.tell("exit 0")
        machine.outcome()

    machine.did(
        "launched one behind Isolated(), which has no address, from an image without an /etc, on a machine that asks nobody "
        "but itself"
    )
    machine.plant("/etc/resolv.conf", "nameserver 127.0.0.53\n")
    machine.plant("/run/systemd/resolve/resolv.conf", "nameserver 127.1.2.3\n")
    machine.call("stage00_process.run", machine.program(["rm", "-r", etc]))
    machine.outcome()
    machine.call(LAUNCH, machine.probe(), [machine.made(ISOLATED), *_named(machine, name)])
    probe = machine.meet(maybe="/etc is made if it is missing")
    found = probe.ask("echo $(cat /etc/hosts)")
    machine.expect("its name stands for 127.0.1.1", found.endswith(f" 127.0.1.1 {name}"), found)
    found = probe.ask("echo $(cat /etc/resolv.conf)")
    machine.expect(
        "its /etc/resolv.conf is empty", not found, found or "it is", "whatever begins with 127. is a loopback address"
    )
    probe.tell("exit 0")
    machine.outcome()

    machine.did("launched one on a machine that has neither of RESOLVERS")
    machine.do(["sh", "-c", "rm /etc/resolv.conf /run/systemd/resolve/resolv.conf && echo done"])
    machine.line()
    machine.call(LAUNCH, machine.probe(), _named(machine, name))
    probe = machine.meet(maybe="a machine need not have such a file: where there is none, nothing is left in it")
    found = probe.ask("echo $(cat /etc/resolv.conf)")
    machine.expect("its /etc/resolv.conf is empty then", not found, found or "it is")
    probe.tell("exit 0")
    machine.outcome()

    script = f"mv {etc} {machine.rootfs}/elsewhere && ln -s nowhere {etc}"
    machine.call("stage00_process.run", machine.program(["sh", "-c", script]))
    machine.outcome()
    machine.did("launched one from an image whose /etc is a link that leads nowhere")
    machine.call(LAUNCH, machine.probe(), _named(machine, name))
    probe = machine.meet(maybe="to make /etc is refused where a link of that name leads nowhere: it has to go first")
    found = probe.ask("echo $(cat /etc/hostname)")
    machine.expect("its /etc/hostname is its own all the same", found == name, found or "it is empty")
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("5.7")
def test_an_abstract_socket_is_reached_only_in_the_same_network(machine):
    _prepare(machine)
    name, order, other = machine.word(), machine.word(), machine.word()
    machine.do([*PYTHON.split(), "obey", name])
    machine.line()
    pids, files, init = (
        machine.made("reference.stage02_pid_namespace.Pids"),
        machine.made("reference.stage03_mount_namespace.Filesystem", machine.rootfs),
        machine.made("reference.stage02_pid_namespace.Init"),
    )
    machine.did(
        "had a service of the machine listen on an abstract socket, put up the reference's Pids(), Filesystem() and "
        "Init(), and called knock()"
    )
    attack = machine.intruder("stage05_networking.knock", name, order)
    machine.call("reference.stage00_process.launch", machine.program(["true"]), [pids, files, attack, init])
    outcome = machine.outcome()
    machine.expect(
        "it returns",
        outcome.returned == 0,
        outcome,
        "an abstract name is all that follows the null byte, to its last byte: no other null byte is added at its end"
        if outcome.raised == "ConnectionRefusedError"
        else "a name that begins with a null byte has no file",
    )
    obeyed = not machine.settles(lambda: machine.runner.look(f"/srv/{order}") is None, 1)
    machine.expect("the service has done what it was told", obeyed, "it has" if obeyed else "it has not")

    machine.did("put up the reference's Isolated() too, and called knock() again")
    attack = machine.intruder("stage05_networking.knock", name, other)
    walls = [machine.made(f"reference.{ISOLATED}"), pids, files, attack, init]
    machine.call("reference.stage00_process.launch", machine.program(["true"]), walls)
    outcome = machine.outcome()
    machine.expect("it raises ConnectionRefusedError", outcome.raised == "ConnectionRefusedError", outcome)
    obeyed = machine.runner.look(f"/srv/{other}") is not None
    machine.expect("the service has heard nothing", not obeyed, "it has" if obeyed else "nothing")

    machine.did("put up your Isolated(), and had a program connect to the socket")
    machine.call("reference.stage00_process.launch", machine.probe(), [machine.made(ISOLATED)])
    probe = machine.meet()
    answer = probe.ask(f"{PYTHON} knock {name}")
    machine.expect("nobody is there", answer == "nobody", answer, "abstract sockets belong to a network namespace")
    probe.tell("exit 0")
    machine.outcome()


FILES = ("hostname", "hosts", "resolv.conf")
MISTAKES = {
    "hosts": "three lines, in this order, the last with the address of eth0, which linux.link_address() tells, or 127.0.1.1",
    "resolv.conf": "the first of RESOLVERS in which an address is left that is not 127.… or ::1; a comment is no line, and "
    "it has to be read in __init__(), where the machine's files are in sight",
}
CAUSES = {  # words of ip(8) or nft(8) with which a start may fail, and what is behind them
    "File exists": "the machine may have a device eth0 itself: the container's end is born in the container's network "
    "(netns after `peer`), or gets that name there; or the dead one's cable has the name: remove() in outside(), first",
    "Address already assigned": "the second container finds the address there: `address replace`",
    'Cannot find device "None"': "attach() gives the device that has the machine's address: the bridge's name",
    'Cannot find device "eth0"': "the cable's other end is not in the container's network: `netns`, and the child's pid",
    "Nexthop has invalid gateway": "the address needs its /PREFIX, which says that the gateway is a neighbour; and in "
    "inside() configure() comes before route()",
}
SCENES = {
    "before": "a wall before Network() raised in its outside(), so that of Network() was never called",
    "outside": "a wall after Network() raised in its outside()",
    "inside": "a wall after Network() raised in its inside()",
    "exec": "there is no such program",
}


def _failing(machine, fails):
    """Walls of which one fails: a Network, and a beacon."""
    hook = "inside" if fails == "inside" else "outside"
    broken = machine.beacon("breaks", fails=(hook, "WallBroke", ["broken"]) if fails != "exec" else None)
    walls = [machine.made(NETWORK), broken]
    return walls[::-1] if fails == "before" else walls


def _named(machine, name, *volumes):
    """The walls of a container that has a root file system, and names."""
    return [
        machine.made("stage03_mount_namespace.Filesystem", machine.rootfs, list(volumes)),
        machine.made("stage05_networking.Names", name),
    ]


def _knows(machine, probe, name, own, servers):
    """The container's files have its name, its own address, and who resolves others."""
    for file, expected in zip(
        FILES,
        (
            name,
            f"127.0.0.1 localhost ::1 localhost {own} {name}",
            f"nameserver {servers[0]} nameserver {servers[1]}",
        ),
        strict=True,
    ):
        found = probe.ask(f"echo $(cat /etc/{file})")
        machine.expect(
            f"its /etc/{file} is: {expected}", found == expected, found or "it is empty", MISTAKES.get(file, "")
        )
        whole = (probe.process.read(f"/etc/{file}") or b"").endswith(b"\n")
        machine.expect(
            f"the last line of /etc/{file} ends like a line, with a newline",
            whole,
            "it does" if whole else "it does not",
        )
        mode = probe.process.look(f"/etc/{file}", follow=False).st_mode
        machine.expect(f"/etc/{file} is a regular file with mode 644", mode == 0o100644, f"{mode:o}")


def _prepare(machine):
    machine.plant("/srv/talk", TALK)


def _port(machine):
    return machine.random.randint(2000, 9000)


def _container(machine, ports=(), *walls, maybe=""):
    """A shell behind Network() and what else is given, and the process that launched it."""
    stream = machine.stream()
    given = machine.probe(stdin=stream, stdout=stream)
    try:
        launcher = machine.beside(LAUNCH, given, [machine.made(NETWORK, list(ports)), *walls])
        return launcher, machine.meet(says=stream, hears=stream, maybe=maybe)
    except Failure as failure:
        failure.maybe = next(
            (cause for words, cause in CAUSES.items() if words in failure.yours), failure.maybe or maybe
        )
        raise


def _address(machine, probe):
    """The container's own address, as the kernel has it."""
    found = sorted(each for each in probe.process.addresses() if not each.startswith("127."))
    good = len(found) == 1 and re.fullmatch(r"10\.57\.0\.\d+", found[0]) is not None
    machine.expect(
        "it has one address in 10.57.0.0/24",
        good,
        ", ".join(found) or "it has none",
        "configure(), called in inside(), gives it self.lease.address",
    )
    return found[0]


def _hardware(machine, probe):
    """The hardware address of the container's eth0, as ip(8) has it there."""
    return probe.ask("PATH=/usr/sbin:/sbin:/usr/bin:/bin ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'")


def _serve(machine, port, word, *address):
    """Have a process of the machine serve a word, at all its addresses or at this one."""
    machine.do([*PYTHON.split(), "serve", str(port), word, *address])
    machine.line()


def _ask(machine, address, port, how="ask", *own):
    """What a process of the machine is told by a service."""
    machine.do([*PYTHON.split(), how, address, str(port), *own])
    return machine.line()


def _is_not_turned(machine, server, word, who, stream):
    """Somebody has asked a service beyond, at the number of a published port."""
    arrives = _accepts(server, word)
    answer = machine.line(stream)
    machine.expect(
        f"{who} reaches that service, and not the container",
        arrives == HOST and answer == word,
        answer,
        "a rule for a port alone takes every packet for that port, also one for somebody else's server: fib daddr type "
        "local, in both chains",
    )


def _ended(machine, launcher):
    """launch() has returned, or raised: its process has ended."""
    ended = launcher.ended(5)
    machine.expect("launch() returns when the program has ended", ended, "it does" if ended else "it does not")


def _as_before(machine, before):
    links = machine.settles(lambda: [each for each in machine.runner.links() if each not in before])
    machine.expect(
        "no device is left on the machine",
        not links,
        ", ".join(links) or "none is",
        "close() is called always, also after a failed start: it calls remove(), and from task 5.3 on, after the lease "
        "is given back, dismantle()",
    )


def _tables(machine):
    """The packet filter of the machine, as nft lists it."""
    end = machine.word()
    machine.do(["sh", "-c", f"nft list ruleset; echo {end}"])
    return list(iter(machine.line, end))


def _is_left(machine, table, tables):
    """The table that the machine's packet filter had before is there."""
    there = any(line.startswith(table) for line in tables)
    machine.expect(
        f"the packet filter still has the machine's {table}",
        there,
        "it has" if there else "it is gone",
        "only the table of your own name is yours: `flush ruleset` wipes those of everybody",
    )


def _no_table(machine, but=None):
    tables = [line.removesuffix(" {") for line in _tables(machine) if line.startswith("table")]
    tables = [each for each in tables if each != but]
    machine.expect(
        "no table is left in the packet filter",
        not tables,
        ", ".join(tables) or "none is",
        "close() calls forget(), also after a failed start, for a table of the same family",
    )


def _accepts(server, word):
    """Who comes to a service beyond the machine: his address, "" if nobody does; he is told a word."""
    try:
        peer, (address, _) = server.accept()
    except TimeoutError:
        return ""
    with peer:
        peer.sendall(f"{word}\n".encode())
    return address


def _web(machine, port):
    """What a browser beyond the machine is answered, and its address."""
    browser = http.client.HTTPConnection(HOST, port)
    browser.sock = sock = machine.socket()
    try:
        sock.connect((HOST, port))
        address = sock.getsockname()[0]
        browser.request("GET", "/")
        return browser.getresponse().read(1000).decode(errors="replace"), address
    except (OSError, http.client.HTTPException) as error:
        return f"nothing: {error}", ""


def _device_number(machine):
    """Make a device on the machine, and remove it: its number. The kernel counts them, and gives none twice."""
    name = machine.word()
    script = f"ip link add {name} type bridge && ip -o link show {name} | cut -d : -f 1 && ip link delete {name}"
    machine.do(["sh", "-c", script])
    return int(machine.line())


def _taken(machine, port, inside, maybe, ports=None):
    """A launch that wants a port which is taken. maybe: how it can be that it gets it."""
    machine.call(LAUNCH, machine.program(["true"]), [machine.made(NETWORK, ports or [[port, inside]])])
    outcome = machine.outcome()
    machine.expect(
        f"launch() raises an OSError with EADDRINUSE that names port {port}",
        outcome.error("errno") == 98 and str(port) in str(outcome.error("text")),
        outcome,
        "the error is the right one, and its text lacks the port's number" if outcome.error("errno") == 98 else maybe,
    )
