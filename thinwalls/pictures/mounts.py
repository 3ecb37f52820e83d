"""pivot_root step by step: the container's own table of mounts, as Filesystem.inside() of stage 3 changes it."""

from thinwalls.pictures.paper import EDGE, WIDTH, Paper

_STEP = 190
_Y = 52


def pivot_root() -> str:
    """Four states of the table, one below the other."""
    paper = Paper(
        "stage03_pivot_root",
        "A new root, and the old one gone",
        """Four states of the container's own table of mounts. 1, after keep_mounts_private(): a copy of the machine's:
        its root, with /proc, /dev and more below it; the rootfs is a directory in it and no mount. 2, after the bind
        mount of the rootfs onto itself, and after proc, sys, dev and the volumes were mounted below it: the rootfs is a
        mount. 3, after pivot_root(".", "."): the rootfs is the root of the table, and the machine's root, with all below
        it, lies on top of it in the same place. 4, after umount(".", MNT_DETACH) and chdir("/"): the machine's root is
        off the table with all below it, and only the container's mounts are left.""",
    )
    paper.head("A new root, and the old one gone")
    _state(paper, 0, "1", "a copy of the machine's table", "`keep_mounts_private()")
    _tree(paper, 0, 24, "*the machine's /", ["`/proc", "`/dev", "more"], "shared")
    paper.box(290, _Y + 68, 206, 44, ["rootfs:", "a directory, no mount"], "off")
    paper.line((236, _Y + 90), (290, _Y + 90), kind="off")

    _state(paper, 1, "2", "the rootfs becomes a mount", "`mount(rootfs, rootfs, MS_BIND)")
    _tree(paper, 1, 24, "*the machine's /", ["`/proc", "`/dev", "more"], "shared")
    _tree(paper, 1, 274, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own")
    paper.line((236, _Y + _STEP + 90), (274, _Y + _STEP + 90))

    _state(paper, 2, "3", "the root is another one", '`pivot_root(".", ".")')
    _tree(paper, 2, 24, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own")
    _tree(paper, 2, 274, "*the machine's /", ["`/proc", "`/dev", "more"], "shared")
    paper.line((274, _Y + 2 * _STEP + 90), (236, _Y + 2 * _STEP + 90), arrow=True)
    paper.text(255, _Y + 2 * _STEP + 66, "on top", 76, anchor="middle")

    _state(paper, 3, "4", "no outside is left", '`umount(".", MNT_DETACH)')
    _tree(paper, 3, 24, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own")
    _tree(paper, 3, 274, "the machine's /", ["`/proc", "`/dev", "more"], "off", gone=True)
    return paper.svg(_Y + 4 * _STEP + 2)


def _state(paper: Paper, number: int, mark: str, words: str, call: str) -> None:
    y = _Y + number * _STEP
    if number:
        paper.line((EDGE, y - 2), (WIDTH - EDGE, y - 2))
    paper.text(EDGE, y + 22, f"*{mark}. {words}", 490)
    paper.text(EDGE + 22, y + 43, call, 470)


def _tree(paper: Paper, number: int, x: float, root: str, below: list[str], kind: str, gone: bool = False) -> None:
    """A mount, and three that are mounted below it."""
    y = _Y + number * _STEP
    for position in range(3):
        paper.line(
            (x + 34 + position * 73, y + 112), (x + 34 + position * 73, y + 140), kind="off" if gone else "plain"
        )
    paper.box(x, y + 70, 212, 42, [root], kind, gone=gone)
    for position, words in enumerate(below):
        paper.box(x + position * 73, y + 134, 68, 34, [words], kind, gone=gone)
