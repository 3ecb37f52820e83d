"""pivot_root step by step: the container's own table of mounts, as Filesystem.inside() of stage 3 changes it."""

from thinwalls.pictures.paper import EDGE, WIDTH, Paper

_TOPS = (52, 242, 432, 670)  # where each state begins
_END = 860


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
    paper.box(290, _TOPS[0] + 68, 206, 44, ["rootfs:", "a directory, no mount"], "off")
    paper.line((236, _TOPS[0] + 90), (290, _TOPS[0] + 90), kind="off")

    _state(paper, 1, "2", "the rootfs becomes a mount", "`mount(rootfs, rootfs, MS_BIND) (and 3.3 to 3.5)")
    _tree(paper, 1, 24, "*the machine's /", ["`/proc", "`/dev", "more"], "shared")
    _tree(paper, 1, 274, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own")
    paper.line((236, _TOPS[1] + 90), (274, _TOPS[1] + 90))

    _state(paper, 2, "3", "the root is another one", '`pivot_root(".", ".")')
    _lying_on_top(paper, 2, 24, "*the machine's /", ["`/proc", "`/dev", "more"], "shared")
    _tree(paper, 2, 24, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own", lower=48)

    _state(paper, 3, "4", "no outside is left", '`umount(".", MNT_DETACH)')
    _tree(paper, 3, 24, "*the rootfs", ["`/proc", "`/sys", "`/dev"], "own")
    _tree(paper, 3, 274, "the machine's /", ["`/proc", "`/dev", "more"], "off", gone=True)
    return paper.svg(_END + 2)


def _state(paper: Paper, number: int, mark: str, words: str, call: str) -> None:
    y = _TOPS[number]
    if number:
        paper.line((EDGE, y - 2), (WIDTH - EDGE, y - 2))
    paper.text(EDGE, y + 22, f"*{mark}. {words}", 490)
    paper.text(EDGE + 22, y + 43, call, 470)


def _tree(
    paper: Paper, number: int, x: float, root: str, below: list[str], kind: str, gone: bool = False, lower: float = 0
) -> None:
    """A mount, and three that are mounted below it."""
    y = _TOPS[number] + lower
    for position in range(3):
        paper.line(
            (x + 34 + position * 73, y + 112), (x + 34 + position * 73, y + 140), kind="off" if gone else "plain"
        )
    paper.box(x, y + 70, 212, 42, [root], kind, gone=gone)
    for position, words in enumerate(below):
        paper.box(x + position * 73, y + 134, 68, 34, [words], kind, gone=gone)


def _lying_on_top(paper: Paper, number: int, x: float, root: str, below: list[str], kind: str) -> None:
    """A mount that lies on the one at the same place, which is drawn 48 lower; what is mounted below it is to its right."""
    y = _TOPS[number]
    paper.line((x + 212, y + 84), (x + 284 + 2 * 73, y + 84))
    paper.box(x, y + 70, 212, 42, [root], kind)
    for position, words in enumerate(below):
        paper.line((x + 284 + position * 73, y + 84), (x + 284 + position * 73, y + 98))
        paper.box(x + 250 + position * 73, y + 98, 68, 34, [words], kind)
