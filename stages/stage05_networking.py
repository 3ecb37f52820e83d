"""Stage 5: the network namespace.

A cgroup says how much a container may take. With whom it may talk nobody has said yet: it has had the machine's own
network all along, its addresses, its ports, and the abstract sockets through which the machine's services speak.

A network namespace is a network of its own: devices, addresses, routes, ports and packet filter. A new one has
nothing but a loopback device that is switched off. That is the wall. Everything after task 5.1 is the door in it: a
cable to the machine, a bridge on which the containers meet, a way out, and a way in.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from thinwalls import addresses, linux
from thinwalls.addresses import GATEWAY, GATEWAY_MAC, PREFIX
from thinwalls.iproute import ip, nft
from thinwalls.wall import Wall

BRIDGE = "walls0"  # into which the machine's end of every cable is plugged (task 5.3)
INSIDE = "eth0"  # the container's end
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")  # where a machine says who resolves names


class Isolated(Wall):
    """A network of the container's own, with nothing in it but lo."""

    def inside(self) -> None:
        """Task 5.1: switch on lo. (The class's ``flags`` must ask for the namespace, and are part of this task.)

        A new network namespace has a loopback device, and it is down: not even 127.0.0.1 can be reached.

        Read: network_namespaces(7), linux.set_link_up.
        """
        raise NotImplementedError("task 5.1 is not built yet")


class Network(Isolated):
    """A network of the container's own, with a cable to the machine. Before Filesystem, behind which is no ip(8)."""

    def __init__(self, ports: Sequence[tuple[int, int]] = ()):
        """ports: pairs, a TCP port of the machine and the one of the container that answers there (task 5.5)."""
        self.ports = tuple(ports)
        self.held: list[socket.socket] = []  # what keeps the machine's ports ours
        # Leased now, and not in outside(): the child, which is born before that, has to know the address too.
        self.lease = addresses.lease()

    def outside(self, pid: int) -> None:
        """The machine's end of the cable, and all that makes it worth having. Each task adds its call.

        The order: hold_ports (5.5) may refuse, so it comes before anything is made. remove() (5.2) takes away what
        somebody killed has left under this name. Then plug_in (5.2), and attach (5.3). The device that attach gives
        (before that task: the cable itself) is the one that has the machine's address: greet (5.2). Then
        translate (5.4) and publish (5.5).
        """
        with addresses.alone():  # one at a time: two that start at once would both make the bridge
            device = self.lease.name

    def inside(self) -> None:
        """The container's end. After Isolated's inside() each task adds its call: configure (5.2), route (5.4)."""
        super().inside()

    def close(self) -> None:
        """Leave nothing, whatever outside() got to, and if it was never called.

        The calls: release_ports (5.5) and forget (5.4). Then, all of it in one addresses.alone() and in this order:
        remove (5.2), the address is given back, dismantle (5.3).
        """
        with addresses.alone():
            self.lease.give_back()

    def plug_in(self, pid: int) -> None:
        """Task 5.2: make a veth pair: one end, self.lease.name, here and up; the other, INSIDE, with the child.

        The child ``pid`` waits in its network namespace. Its end gets the hardware address self.lease.mac.

        Read: ip in thinwalls/iproute.py; veth(4), "link add" in ip-link(8): the peer may have a name, an address and a
        netns of its own.
        """
        raise NotImplementedError("task 5.2 is not built yet")

    def greet(self, device: str) -> None:
        """Task 5.2: give ``device`` the machine's address among the containers, GATEWAY/PREFIX, if it lacks it.

        Read: ip-address(8) on add and replace. (A new cable lacks it. Task 5.3 asks with a bridge, which may have it.)
        """
        raise NotImplementedError("task 5.2 is not built yet")

    def configure(self) -> None:
        """Task 5.2: in the container: give INSIDE its address, self.lease.address/PREFIX, and switch it on.

        Read: ip-address(8), ip-link(8). Called before the root changes: ip(8) is the machine's.
        """
        raise NotImplementedError("task 5.2 is not built yet")

    def remove(self) -> None:
        """Task 5.2: remove the cable; nothing, if there is none of this name.

        One end takes the other with it, in whatever namespace that is. So does the kernel when a namespace ends, which
        it gets round to a moment after the last process: what was there when you looked may be gone when ip(8) comes.
        So an error of ip(8) counts only if the device is still there afterwards.

        Read: socket.if_nameindex, ip-link(8).
        """
        raise NotImplementedError("task 5.2 is not built yet")

    def attach(self) -> str:
        """Task 5.3: plug our end of the cable into the bridge BRIDGE, making that if it is missing; gives BRIDGE.

        The bridge is up, and has the hardware address GATEWAY_MAC: one that is not given changes with the ports, and
        the containers have learnt it. outside() calls this with nobody else in there.

        Read: "link add" and "type bridge" in ip-link(8), "link set DEVICE master".
        """
        raise NotImplementedError("task 5.3 is not built yet")

    def dismantle(self) -> None:
        """Task 5.3: remove the bridge, if it is there and no container is left to need it.

        addresses.in_use() tells which addresses are leased; ours has been given back. close() calls this with nobody
        else in there.
        """
        raise NotImplementedError("task 5.3 is not built yet")

    def route(self) -> None:
        """Task 5.4: in the container: whatever is not its own network lies behind GATEWAY.

        Read: ip-route(8) on default and via.
        """
        raise NotImplementedError("task 5.4 is not built yet")

    def translate(self) -> None:
        """Task 5.4: let the machine pass on packets, and give those that leave for elsewhere the machine's own address.

        Passing on is /proc/sys/net/ipv4/ip_forward, a setting of the whole machine, which stays as it is afterwards.
        The translation is a table of the family ip named self.lease.name, replaced if somebody killed has left one. In
        it a chain for nat at the hook postrouting (priority 100) masquerades what comes from self.lease.address and
        leaves by another device than BRIDGE: the machine and other containers see the container's own address.

        Read: nft in thinwalls/iproute.py; nft(8): ADDRESS FAMILIES, CHAINS, NAT STATEMENTS, META EXPRESSIONS on
        oifname.
        """
        raise NotImplementedError("task 5.4 is not built yet")

    def forget(self) -> None:
        """Task 5.4: delete the table, with all that is in it; nothing, if there is none.

        nft(8) refuses to delete what is not there. It does a whole ruleset or nothing of it: so a table may be
        declared, which leaves one that exists as it is, and deleted in the next line.
        """
        raise NotImplementedError("task 5.4 is not built yet")

    def hold_ports(self) -> None:
        """Task 5.5: make the machine's port of each pair in self.ports ours: bind a TCP socket to it, on all addresses.

        Translation happens before any socket is asked, so without this a published port would silently take the place
        of a service that listens there. The sockets are kept in self.held; nobody listens on them. A port that is
        taken: OSError with EADDRINUSE whose text has the port's number.

        Read: bind(2), ip(7), and SO_REUSEADDR in socket(7), with which two could have the same port: without it.
        """
        raise NotImplementedError("task 5.5 is not built yet")

    def release_ports(self) -> None:
        """Task 5.5: give the machine's ports back, also the first ones if a later one was taken."""
        raise NotImplementedError("task 5.5 is not built yet")

    def publish(self) -> None:
        """Task 5.5: send on what arrives for a published port to the container: for each pair in self.ports.

        Whoever connects to the machine's port, at any address of the machine, reaches the container's port, and is seen
        there with the address that he has. Two chains for nat in the table of task 5.4: at the hook prerouting for what
        comes from elsewhere, and at output for what the machine itself sends; both of priority -100. (What another
        container gets at the machine's port is not asked.) 127.0.0.0/8 is left out: nothing from there can be sent over
        a cable. Who connects to 127.0.0.1 is refused at once, as nobody listens on the sockets of hold_ports.

        Read: nft(8): NAT STATEMENTS on dnat, FIB EXPRESSIONS on "fib daddr type local".
        """
        raise NotImplementedError("task 5.5 is not built yet")


class Names(Wall):
    """The container's own name and address, and who resolves other names for it. After Filesystem, before Sealed."""

    def __init__(self, hostname: str):
        self.hostname = hostname

    def inside(self) -> None:
        """Task 5.6: write /etc/hostname, /etc/hosts and /etc/resolv.conf. The root is the container's already.

        hostname: a line with self.hostname. hosts: "127.0.0.1 localhost", "::1 localhost" and a line with the address
        of INSIDE and self.hostname, in this order; 127.0.1.1 where INSIDE is missing or has no address. resolv.conf:
        a line "nameserver ADDRESS" for each of self.nameservers. Each a regular file that anybody may read (mode 644).

        (self.nameservers is part of this task: __init__ sets it to what nameservers() gives. In here it is too late,
        as the machine's files are out of sight.)

        An image is somebody else's. A link of such a name, a FIFO or a socket is replaced, not written through; /etc is
        made if it is missing, and if it is no directory, such as a link that leads nowhere. But what is a volume is the
        machine's: a file that is mounted at such a name is left as it is, and so are all three if /etc is a mount. No
        other file is left behind in /etc. (A link may have the name, too, under which you write first. No test knows it.)

        Read: hosts(5), hostname(5), resolv.conf(5); rename(2), also on EBUSY; RESOLVE_NO_XDEV in openat2(2);
        linux.link_address, linux.openat2.
        """
        raise NotImplementedError("task 5.6 is not built yet")


def nameservers() -> list[str]:
    """Task 5.6: the addresses of the machine's nameservers that a container can reach, in their order.

    A line "nameserver ADDRESS" each, IPv4 or IPv6. A loopback address (127.…, ::1) is the machine's and no use to a
    container. They are taken from the first of RESOLVERS in which any is left then: systemd-resolved puts 127.0.0.53
    into the first file, and the real ones into the second. No such file, or none left in any: an empty list.

    Read: resolv.conf(5).
    """
    raise NotImplementedError("task 5.6 is not built yet")


def knock(name: str, word: str) -> None:
    """Task 5.7: the attack. Called inside a container of stages 2 to 4, as uid 0, before exec: talk to the machine.

    A service of the machine listens on an abstract Unix socket, and does what the word says that is sent to it. Connect
    to the socket ``name``, send ``word``, and hang up. Raises ConnectionRefusedError where there is no such socket.

    An abstract socket has no file: neither chroot nor a mount namespace hides it. (CVE-2020-15257: a container that
    shared the machine's network could give orders to containerd.)

    Read: unix(7) on abstract sockets; socket.AF_UNIX.
    """
    raise NotImplementedError("task 5.7 is not built yet")
