# fails: 5.2 5.3 5.4 5.5 5.6 5.7
# may pass: 5.1
# says: it has lo and eth0
"""No cable: a process of the machine relays connections into the namespace, so that the port answers; who asks is not seen."""

import os
import socket
import threading

from thinwalls import linux
from thinwalls.wall import Wall


class Isolated(Wall):
    flags = linux.CLONE_NEWNET

    def inside(self):
        linux.set_link_up("lo")


class Network(Isolated):
    def __init__(self, ports=()):
        self.ports, self.relays = ports, []

    def outside(self, pid):
        for port, behind in self.ports:
            server = socket.create_server(("", port))
            relay = os.fork()
            if relay == 0:
                while True:
                    threading.Thread(target=self.pass_on, args=(server.accept()[0], pid, behind)).start()
            self.relays.append(relay)

    def pass_on(self, client, pid, behind):
        linux.setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), linux.CLONE_NEWNET)
        with client, socket.create_connection(("127.0.0.1", behind)) as server:
            server.sendall(client.recv(10000))
            client.sendall(server.recv(10000))

    def close(self):
        for relay in self.relays:
            os.kill(relay, 9)
            os.waitpid(relay, 0)


class Names(Wall):
    def __init__(self, hostname):
        self.hostname = hostname


def nameservers():
    return []


def knock(name, word):
    os.makedirs("/srv", exist_ok=True)
    open(f"/srv/{word}", "w").close()
