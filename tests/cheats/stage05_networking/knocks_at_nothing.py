# fails: 5.1 5.2 5.3 5.4 5.5 5.6 5.7
# says: the service has done
"""The attack does nothing and complains of nothing; Isolated is in a namespace only for a moment."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Isolated(Wall):
    def outside(self, pid):
        self.pid = pid

    def inside(self):
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        linux.unshare(linux.CLONE_NEWNET)
        linux.set_link_up("lo")
        linux.setns(here, linux.CLONE_NEWNET)
        os.close(here)


class Network(Isolated):
    def __init__(self, ports=()):
        self.ports = ports


class Names(Wall):
    def __init__(self, hostname):
        self.hostname = hostname


def nameservers():
    return []


def knock(name, word):
    return None
