# fails: 5.1 5.2 5.3 5.4 5.5 5.6 5.7
# says: network namespace
"""No namespace: devices of the machine that have the names and the addresses that are asked for."""

import subprocess

from thinwalls import linux
from thinwalls.wall import Wall


def ip(line):
    subprocess.run(["ip", *line.split()], capture_output=True)


class Isolated(Wall):
    def inside(self):
        linux.set_link_up("lo")


class Network(Wall):
    def __init__(self, ports=()):
        self.ports = ports

    def outside(self, pid):
        for name, address in (("walls0", "10.57.0.1/24"), ("eth0", "10.57.0.2/24")):
            ip(f"link add {name} type dummy")
            ip(f"address add {address} dev {name}")
            ip(f"link set {name} up")

    def close(self):
        ip("link delete walls0")
        ip("link delete eth0")


class Names(Wall):
    def __init__(self, hostname):
        self.hostname = hostname

    def inside(self):
        with open("/etc/hostname", "w") as file:
            file.write(self.hostname)


def nameservers():
    return []


def knock(name, word):
    raise ConnectionRefusedError(111, "nobody has that name")
