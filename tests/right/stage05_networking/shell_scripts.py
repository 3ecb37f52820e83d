"""What an administrator would type, as two scripts for sh(1), one for each side of the cable: the container's end is moved
there, and named, when it exists; it is the address that masquerading goes by; and the files of a container are
written by open(2) with O_NOFOLLOW after whatever had the name is gone.
"""

import errno
import os
import re
import socket
import subprocess

from thinwalls import addresses, linux
from thinwalls.wall import Wall

MAKE = """
ip link show "$name" >/dev/null 2>&1 && ip link delete "$name"
ip link add "$name" type veth peer name "c$name"
ip link set "c$name" address "$mac" netns "$pid"
ip link add walls0 address "$gateway_mac" type bridge 2>/dev/null || true
ip link set walls0 up
ip address add "$gateway/24" dev walls0 2>/dev/null || true
ip link set "$name" up master walls0
echo 1 >/proc/sys/net/ipv4/ip_forward
nft delete table ip "$name" 2>/dev/null || true
nft add table ip "$name"
nft "add chain ip $name out { type nat hook postrouting priority srcnat; }"
nft "add rule ip $name out ip saddr $address ip daddr != 10.57.0.0/24 masquerade"
"""
PUBLISH = """
for hook in prerouting output; do
    nft "add chain ip $name $hook { type nat hook $hook priority -100; }"
    nft "add rule ip $name $hook fib daddr type local ip daddr != 127.0.0.0/8 tcp dport $port dnat to $address:$behind"
done
"""
CONFIGURE = """
ip link set lo up
ip link set "c$name" name eth0
ip address add "$address/24" broadcast + dev eth0
ip link set eth0 up
ip route add default via "$gateway"
"""
REMOVE = """
nft delete table ip "$name" || true
ip link delete "$name" || true
"""


def script(text, **variables):
    env = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(["sh", "-eu"], input=text, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise OSError(done.stdout)


class Isolated(Wall):
    flags = linux.CLONE_NEWNET

    def inside(self):
        script("ip link set lo up")


class Network(Isolated):
    def __init__(self, ports=()):
        self.ports, self.lease, self.sockets = list(ports), addresses.lease(), []

    @property
    def names(self):
        lease = self.lease
        return dict(name=lease.name, address=lease.address, mac=lease.mac, gateway="10.57.0.1", gateway_mac=addresses.GATEWAY_MAC)

    def outside(self, pid):
        for port, _ in self.ports:
            holder = socket.socket()
            self.sockets.append(holder)
            if code := holder_errno(holder, port):
                raise OSError(code, f"{os.strerror(code)}: {port}")
        with addresses.alone():
            script(MAKE, pid=pid, **self.names)
        for port, behind in self.ports:
            script(PUBLISH, port=port, behind=behind, **self.names)

    def inside(self):
        script(CONFIGURE, **self.names)

    def close(self):
        while self.sockets:
            self.sockets.pop().close()
        with addresses.alone():
            script(REMOVE, **self.names)
            self.lease.give_back()
            if not addresses.in_use():
                script("ip link delete walls0 || true")


def holder_errno(holder, port):
    try:
        holder.bind(("0.0.0.0", port))
    except OSError as error:
        return error.errno
    return 0


class Names(Wall):
    def __init__(self, hostname):
        self.hostname, self.servers = hostname, nameservers()

    def inside(self):
        mounted = {line.split(" ")[4] for line in open("/proc/self/mountinfo")}
        if "/etc" in mounted:
            return
        if not os.path.exists("/etc/."):
            if os.path.lexists("/etc"):
                os.remove("/etc")
            os.mkdir("/etc", 0o755)
        address = linux.link_address("eth0")
        self.put(mounted, "/etc/hostname", [self.hostname])
        self.put(mounted, "/etc/hosts", ["127.0.0.1 localhost", "::1 localhost", f"{address or '127.0.1.1'} {self.hostname}"])
        self.put(mounted, "/etc/resolv.conf", [f"nameserver {server}" for server in self.servers])

    def put(self, mounted, path, lines):
        if path in mounted:
            return
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.write(fd, "".join(f"{line}\n" for line in lines).encode())
        os.chmod(fd, 0o644)
        os.close(fd)


def nameservers():
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            with open(path) as file:
                found = re.findall(r"^nameserver[ \t]+(?!127\.|::1\s)(\S+)", file.read(), re.MULTILINE)
        except OSError:
            found = []
        if found:
            return found
    return []


def knock(name, word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        code = service.connect_ex(b"\0" + os.fsencode(name))
        if code == errno.ECONNREFUSED:
            raise ConnectionRefusedError(code, os.strerror(code))
        if code:
            raise OSError(code, os.strerror(code))
        service.send(word.encode())
