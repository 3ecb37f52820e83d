# fails: 5.2 5.3 5.4 5.5 5.6 5.7
# may pass: 5.1
# says: regular file
"""Lays traps for whoever looks into the container: links to the machine's secrets, a FIFO, a device without an end."""

import os

from thinwalls import addresses, linux
from thinwalls.iproute import ip
from thinwalls.wall import Wall


class Isolated(Wall):
    flags = linux.CLONE_NEWNET

    def inside(self):
        linux.set_link_up("lo")


class Network(Isolated):
    def __init__(self, ports=()):
        self.lease = addresses.lease()

    def outside(self, pid):
        ip(f"link add {self.lease.name} type veth peer name eth0 netns {pid}", f"link set {self.lease.name} up")

    def inside(self):
        super().inside()
        ip(f"address add {self.lease.address}/24 dev eth0", "link set eth0 up")

    def close(self):
        try:
            ip(f"link delete {self.lease.name}")
        except OSError:
            pass
        self.lease.give_back()


class Names(Wall):
    def __init__(self, hostname):
        self.hostname = hostname

    def inside(self):
        for name in ("hostname", "hosts", "resolv.conf", "passwd"):
            if os.path.lexists(f"/etc/{name}"):
                os.unlink(f"/etc/{name}")
        # The words are right, and the file is a link: to where the observer might find its own.
        with open("/etc/names", "w") as file:
            file.write(f"{self.hostname}\n")
        os.chmod("/etc/names", 0o644)
        os.symlink("names", "/etc/hostname")
        os.symlink("/proc/1/root/etc/shadow", "/etc/hosts")
        os.mkfifo("/etc/resolv.conf", 0o644)
        os.symlink("/dev/zero", "/etc/passwd")


def nameservers():
    return []


def knock(name, word):
    os.symlink("/etc/shadow", f"/srv/{word}") if os.path.isdir("/srv") else None
