"""One ip process for each side, and one ruleset, with a map of the ports, for all that the packet filter has to do; lo is
switched on by ip too; the port is held by a socket that is bound to [::] with both families.
"""

import contextlib
import errno
import os
import socket
import subprocess
import tempfile

from thinwalls import addresses, linux
from thinwalls.wall import Wall


def tell(tool, *lines):
    with tempfile.TemporaryFile("w+") as file:
        file.write("\n".join(lines) + "\n")
        file.seek(0)
        argv = [tool, "-batch", "-"] if tool == "ip" else [tool, "-f", "/dev/stdin"]
        subprocess.run(argv, stdin=file, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Isolated(Wall):
    flags = linux.CLONE_NEWNET

    def inside(self):
        tell("ip", "link set lo up")


class Network(Wall):
    flags = linux.CLONE_NEWNET

    def __init__(self, ports=()):
        self.ports = {int(outer): int(inner) for outer, inner in ports}
        self.lease = addresses.lease()
        self.made = False
        self.stack = contextlib.ExitStack()

    def outside(self, pid):
        for port in self.ports:
            holder = self.stack.enter_context(socket.socket(socket.AF_INET6))
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                holder.bind(("::", port))
            except OSError as error:
                raise OSError(error.errno, f"somebody has port {port}") from error
        name = self.lease.name
        try:
            tell("ip", f"link delete {name}")
        except subprocess.CalledProcessError:
            pass
        with addresses.alone():
            lines = []
            if not os.path.exists("/proc/sys/net/ipv4/conf/walls0"):
                lines = [
                    f"link add walls0 up address {addresses.GATEWAY_MAC} type bridge",
                    f"address add {addresses.GATEWAY}/{addresses.PREFIX} dev walls0",
                ]
            tell(
                "ip",
                *lines,
                f"link add eth0 netns {pid} address {self.lease.mac} type veth peer name {name}",
                f"link set {name} up master walls0",
            )
        with open("/proc/sys/net/ipv4/conf/all/forwarding", "w") as file:
            file.write("1")
        elements = ", ".join(f"{outer} : {self.lease.address} . {inner}" for outer, inner in self.ports.items())
        elements = f"elements = {{ {elements} }};" if elements else ""
        table = f"table ip {name}"
        turn = "fib daddr type local ip daddr != 127.0.0.0/8 dnat ip to tcp dport map @to"
        tell(
            "nft",
            table,
            f"delete {table}",
            f"{table} {{",
            f"map to {{ type inet_service : ipv4_addr . inet_service; {elements} }}",
            f"chain a {{ type nat hook prerouting priority dstnat; policy accept; {turn}; }}",
            f"chain b {{ type nat hook output priority -100; policy accept; {turn}; }}",
            "chain c { type nat hook postrouting priority srcnat; policy accept;",
            f'ip saddr {self.lease.address} oifname != "walls0" masquerade; }}',
            "}",
        )
        self.made = True

    def inside(self):
        tell(
            "ip",
            "link set lo up",
            f"address add {self.lease.address}/{addresses.PREFIX} dev eth0",
            "link set eth0 up",
            f"route add default via {addresses.GATEWAY}",
        )

    def close(self):
        self.stack.close()
        name = self.lease.name
        tell("nft", f"table ip {name}", f"delete table ip {name}")
        with addresses.alone():
            for device, unused in ((name, True), ("walls0", addresses.in_use() <= {self.lease.number})):
                if unused:
                    with contextlib.suppress(subprocess.CalledProcessError):
                        tell("ip", f"link delete {device}")
            self.lease.give_back()


def nameservers():
    found = []
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            text = open(path).read()
        except OSError:
            text = ""
        words = [line.split() for line in text.split("\n")]
        named = [each[1] for each in words if len(each) >= 2 and each[0] == "nameserver"]
        found = found or [each for each in named if each[:4] != "127." and each != "::1"]
    return found


class Names(Wall):
    def __init__(self, hostname):
        self.hostname = hostname
        self.resolv = "".join(f"nameserver {each}\n" for each in nameservers())

    def inside(self):
        own = linux.link_address("eth0")
        put("resolv.conf", self.resolv)
        put("hostname", f"{self.hostname}\n")
        put("hosts", f"127.0.0.1 localhost\n::1 localhost\n{own if own else '127.0.1.1'} {self.hostname}\n")


def put(name, text):
    try:
        os.makedirs("/etc", mode=0o755, exist_ok=True)
    except FileExistsError:
        os.unlink("/etc")
        os.mkdir("/etc")
    top = os.open("/", os.O_RDONLY)
    try:
        directory = linux.openat2(top, "etc", os.O_RDONLY, linux.RESOLVE_NO_XDEV | linux.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return
        raise
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno == errno.EBUSY:
            return
        raise
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644, dir_fd=directory)
    os.write(fd, text.encode())
    os.fchmod(fd, 0o644)
    for each in (fd, directory, top):
        os.close(each)


def knock(name, word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(b"\0" + os.fsencode(name))
        sock.send(os.fsencode(word))
