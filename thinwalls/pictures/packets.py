"""A packet's way through cable, bridge and translation (stage 5): out to a server, and in to a published port."""

from thinwalls.addresses import GATEWAY
from thinwalls.host import BEYOND, HOST
from thinwalls.host.network import GATEWAY as BESIDE
from thinwalls.pictures.paper import WIDTH, Paper

CONTAINER = "10.57.0.2"  # the lowest address that is leased; its cable is walls2
CABLE, BRIDGE, INSIDE = "walls2", "walls0", "eth0"
PORT, BEHIND = 8080, 80  # as in -p 8080:80
_LEFT, _WIDE = 24, WIDTH - 48


def way_out() -> str:
    """From a container to a server of the world, and the answer back."""
    paper = Paper(
        "stage05_way_out",
        "A packet's way out, and the answer back",
        f"""From top to bottom: the container, the machine, the world. The container's {INSIDE} has {CONTAINER}. A packet
        from {CONTAINER} to {BEYOND} goes by the cable to {CABLE}, which is plugged into the bridge {BRIDGE}; that has
        {GATEWAY}, the container's default route. The machine forwards it, and at postrouting masquerade gives it the
        machine's own address for its sender. It leaves by uplink, from {HOST} to {BEYOND}. The answer comes back from
        {BEYOND} to {HOST}. The kernel's table of connections puts {CONTAINER} in place of {HOST}, and the answer goes by
        {BRIDGE} and {CABLE} into the container.""",
    )
    paper.head("The way out, and the answer back")
    _places(paper, f"{INSIDE} {CONTAINER}", f"a server: {BEYOND}", f"uplink {HOST}")
    _legs(paper, (f"1. from {CONTAINER}", f"to {BEYOND}"), (f"6. from {BEYOND}", f"to {CONTAINER}"), 306)
    paper.box(40, 360, 212, 44, ["*2. postrouting:", "masquerade"], "own")
    paper.box(268, 360, 212, 44, ["*5. conntrack:", "its receiver is put back"], "own")
    _legs(paper, (f"3. from {HOST}", f"to {BEYOND}"), (f"4. from {BEYOND}", f"to {HOST}"), 434)
    for x, up in ((146, False), (374, True)):
        _run(paper, x, up)
    paper.text(146, 634, "*the request", 200, anchor="middle")
    paper.text(374, 634, "*the answer", 200, anchor="middle")
    paper.text(_LEFT, 662, "From the bridge to uplink the machine passes it on,", _WIDE)
    paper.text(_LEFT, 681, "as ip_forward is 1.", _WIDE)
    return paper.svg(695)


def way_in() -> str:
    """From a visitor to a published port, and the answer."""
    paper = Paper(
        "stage05_way_in",
        "A packet's way in to a published port",
        f"""From top to bottom: the container, the machine, the world; the visitor's packet goes up. It is from {BESIDE}
        to port {PORT} of {HOST}, and comes in by uplink. At prerouting, dnat gives it the container for its receiver:
        {CONTAINER}, port {BEHIND}. The sender stays. Then the machine forwards it, by {BRIDGE} and {CABLE}, to the
        server in the container. The answer from {CONTAINER}, port {BEHIND}, goes down; the kernel's table of connections
        gives it {HOST}, port {PORT}, for its sender. The machine's own packets to that address meet the same rule at the
        hook output. Packets to 127.0.0.1 are left as they are, and refused.""",
    )
    paper.head("The way in: a published port")
    _places(paper, f"{INSIDE} {CONTAINER}, port {BEHIND}", f"a visitor: {BESIDE}", f"uplink {HOST}, port {PORT}")
    _legs(
        paper, (f"4. from {CONTAINER}:{BEHIND}", f"to {BESIDE}"), (f"3. from {BESIDE}", f"to {CONTAINER}:{BEHIND}"), 306
    )
    paper.box(40, 360, 212, 44, ["*5. conntrack:", "its sender is put back"], "own")
    paper.box(268, 360, 212, 44, ["*2. prerouting:", f"dnat to {CONTAINER}:{BEHIND}"], "own")
    _legs(paper, (f"6. from {HOST}:{PORT}", f"to {BESIDE}"), (f"1. from {BESIDE}", f"to {HOST}:{PORT}"), 434)
    for x, up in ((146, False), (374, True)):
        _run(paper, x, up)
    paper.text(146, 634, "*the answer", 200, anchor="middle")
    paper.text(374, 634, "*the visit", 200, anchor="middle")
    paper.text(_LEFT, 662, "What the machine itself sends to that address meets", _WIDE)
    paper.text(_LEFT, 681, "the same rule at another hook: output. Not what it", _WIDE)
    paper.text(_LEFT, 700, "sends to 127.0.0.1: there nobody listens.", _WIDE)
    return paper.svg(714)


def _places(paper: Paper, inside: str, world: str, uplink: str) -> None:
    """The three networks, and what joins them."""
    paper.box(_LEFT, 46, _WIDE, 72, (), "own")
    paper.text(36, 66, "*the container", 200)
    paper.box(110, 74, 300, 34, [inside])
    paper.box(_LEFT, 154, _WIDE, 376, (), "shared")
    paper.text(490, 174, "*the machine", 114, anchor="end")
    paper.box(110, 184, 300, 34, [f"{CABLE}, the cable's other end"])
    paper.box(110, 228, 300, 34, [f"bridge {BRIDGE} {GATEWAY}"])
    paper.box(110, 486, 300, 34, [uplink])
    paper.box(_LEFT, 566, _WIDE, 42, [f"*the world: {world}"], "shared")


def _legs(paper: Paper, left: tuple[str, str], right: tuple[str, str], y: float) -> None:
    """What is written on a packet at this height, on both ways."""
    for x, words in ((40, left), (268, right)):
        paper.box(x, y - 20, 212, 46, words, "plain")


def _run(paper: Paper, x: float, up: bool) -> None:
    """The arrows of one way, between the boxes."""
    for top, bottom in ((108, 184), (218, 228), (262, 286), (332, 360), (404, 414), (460, 486), (520, 566)):
        if bottom > top:
            paper.line(*(((x, bottom), (x, top)) if up else ((x, top), (x, bottom))), arrow=bottom - top > 10)
