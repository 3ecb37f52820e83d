"""What lies beyond a throwaway host: its outer network namespace, which plays the internet.

A veth pair joins the two levels. The inner end is the learner's machine's only way out; the outer one is where the
grader listens, and where it connects from, through sockets that the outer PID 1 makes for it. Nothing in there leads
any further: a host reaches what the trusted side holds out to it and nothing else.
"""

import os
import socket

HOST, GATEWAY, BEYOND = "192.0.2.2", "192.0.2.1", "198.51.100.7"  # addresses for documentation: RFC 5737
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def lay_cable(pid: int) -> None:
    """In the outer level: join the network namespace of the process ``pid`` to this one. Raises OSError."""
    _ip(
        f"link add beyond type veth peer name uplink netns {pid}",
        f"address add {GATEWAY}/24 dev beyond",
        f"address add {BEYOND}/32 dev lo",
        "link set lo up",
        "link set beyond up",
    )


def plug_in() -> None:
    """In the inner level, once the cable is there: give this end its address, and the way out.

    Whether packets are passed on is inherited from the machine itself. Here it is off, whatever it is there.
    """
    with open("/proc/sys/net/ipv4/ip_forward", "w") as setting:
        setting.write("0")
    _ip(f"address add {HOST}/24 dev uplink", "link set uplink up", f"route add default via {GATEWAY}")


def endpoint(listen: list[object] | None) -> socket.socket:
    """A TCP socket of this network namespace: listening at [address, port], or, for None, not connected yet."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if listen is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((str(listen[0]), int(str(listen[1]))))
            made.listen(64)
    except OSError:
        made.close()
        raise
    return made


def _ip(*commands: str) -> None:
    """Run commands of ip(8), all in one process."""
    reads, writes = os.pipe()
    os.write(writes, "\n".join([*commands, ""]).encode())
    os.close(writes)
    try:
        pid = os.posix_spawnp(
            "ip", ["ip", "-batch", "-"], {"PATH": _PATH}, file_actions=[(os.POSIX_SPAWN_DUP2, reads, 0)]
        )
    except FileNotFoundError:
        raise OSError("a host with a network needs ip(8): install iproute2") from None
    finally:
        os.close(reads)
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(f"ip(8) ended with {status}; it was to do: {'; '.join(commands)}")
