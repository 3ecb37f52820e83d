"""The walls before and after each stage: what a process shares with the machine, and what is its own."""

from thinwalls.pictures.paper import EDGE, LARGE, WIDTH, Paper

STAGES = {  # what each is about
    1: "chroot",
    2: "namespaces begin",
    3: "the mount namespace",
    4: "cgroups",
    5: "the network namespace",
    6: "image pull",
}
# What a process of stage 0 shares, and from which stage on it does not: how it has it, and the class that is the wall.
# name: its own, but the thing itself is still there; own: another one; part: a part of what is still shared.
ROWS: tuple[tuple[str, dict[int, tuple[str, str, str]]], ...] = (
    (
        "root directory",
        {1: ("name", "its own, by name only", "Root"), 3: ("own", "its own, no other left", "Filesystem")},
    ),
    ("host name, IPC", {2: ("own", "its own", "Uts")}),
    ("process numbers", {2: ("own", "its own, from PID 1", "Pids, Init")}),
    ("mounts, /proc, /dev", {3: ("own", "its own", "Filesystem")}),
    ("power to mount", {3: ("own", "taken away", "Caps")}),
    ("memory, CPU, forks", {4: ("part", "up to a limit", "Cgroup")}),
    ("network", {5: ("own", "its own: lo, eth0", "Network")}),
    ("files of the rootfs", {6: ("part", "its changes, not kept", "Disposable")}),
    ("user ids", {6: ("part", "as the image says", "User")}),
    ("kernel, clock", {}),
)
_HEIGHT, _STEP, _TOP = 48, 56, 74
_LEFT, _RIGHT, _HALF = EDGE, 276, 230  # where the two columns begin, and how wide they are


def walls(stage: int) -> str:
    """What stands after a stage, as SVG; what was put up in it is marked as new."""
    rows = [(label, max((each for each in how if each <= stage), default=0), how) for label, how in ROWS]
    paper = Paper(f"stage{stage:02}_walls", f"The walls after stage {stage}: {STAGES[stage]}", _told(stage))
    paper.head(f"After stage {stage}: {STAGES[stage]}")
    paper.text(_LEFT + _HALF / 2, 60, "*the machine", _HALF, size=LARGE, anchor="middle")
    paper.text(_RIGHT + _HALF / 2, 60, "*the process", _HALF, size=LARGE, anchor="middle")
    for number, (label, since, how) in enumerate(rows):
        kind, words, wall = how.get(since, ("shared", "", ""))
        _row(paper, _TOP + number * _STEP, label, kind, (words, f"`{wall}"), new=since == stage)
    end = _TOP + len(rows) * _STEP + 8
    _legend(paper, end)
    return paper.svg(end + 74)


def _row(paper: Paper, y: float, label: str, kind: str, told: tuple[str, str], new: bool) -> None:
    if kind == "shared":
        paper.box(_LEFT, y, WIDTH - 2 * EDGE, _HEIGHT, (f"*{label}", "shared"), "shared")
        return
    if kind == "part":
        paper.box(_LEFT, y, WIDTH - 2 * EDGE, _HEIGHT, (), "shared")
        paper.text(_LEFT + _HALF / 2, y + 20, f"*{label}", _HALF - 12, anchor="middle")
        paper.text(_LEFT + _HALF / 2, y + 39, "shared", _HALF - 12, anchor="middle")
        paper.box(_RIGHT, y + 3, _HALF - 5, _HEIGHT - 6, told, "own")
    else:
        paper.box(_LEFT, y, _HALF, _HEIGHT, (f"*{label}", "the machine's"))
        paper.box(_RIGHT, y, _HALF, _HEIGHT, told, "own" if kind == "own" else "shared")
        if not new:
            paper.line((260, y - 4), (260, y + _HEIGHT + 4), kind="own" if kind == "own" else "shared")
    if new:
        paper.striped(253, y - 3, 15, _HEIGHT + 6)


def _legend(paper: Paper, y: float) -> None:
    paper.striped(EDGE, y + 4, 40, 13)
    paper.text(64, y + 16, "a new wall", 110)
    paper.line((190, y + 11), (230, y + 11), kind="own")
    paper.text(240, y + 16, "its own", 150)
    paper.line((EDGE, y + 42), (EDGE + 40, y + 42), kind="shared")
    paper.text(64, y + 47, "shared with the machine, or hidden by name only", 442)


def _told(stage: int) -> str:
    """The picture in words."""
    had: list[str] = []
    new: list[str] = []
    parts: list[str] = []
    shared: list[str] = []
    for label, how in ROWS:
        since = max((each for each in how if each <= stage), default=0)
        if not since:
            shared.append(label)
            continue
        kind, words, wall = how[since]
        said = f"{label} ({words}; {wall})"
        (new if since == stage else parts if kind == "part" else had).append(said)
    told = [f"Two columns, the machine and the process, with a wall between them. New in this stage: {'; '.join(new)}."]
    told += [f"Its own before: {'; '.join(had)}."] if had else []
    told += [f"A part of it, before: {'; '.join(parts)}."] if parts else []
    return " ".join([*told, f"Still shared with the machine: {'; '.join(shared)}."])
