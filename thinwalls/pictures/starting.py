"""How a container starts: the launcher's two sides in time (stage 0), and the fork of its init (stage 2)."""

from thinwalls.pictures.paper import LINE, WIDTH, Paper

_PARENT, _CHILD, _WIDE = 14, 282, 224  # where the two columns begin, and how wide they are
_END = _PARENT + _WIDE  # the right edge of the left one


def launcher() -> str:
    """launch() of stage 0 with two walls, a and b."""
    paper = Paper(
        "stage00_launcher",
        "The launcher's two sides in time",
        """Two columns, read from the top: the parent, which calls launch(), and the child. The parent makes two pipes,
        gate and report, and clones with the flags of all walls. The child reads from the gate, and so waits. The parent
        calls a.outside(pid) and b.outside(pid), then writes a byte to the gate and reads from report. Now the child
        calls a.inside() and b.inside(), and become(): furnish and exec. Exec closes the child's end of report, so the
        parent's read ends with nothing: the start succeeded. The program runs while the parent waits for it; then the
        parent calls b.close() and a.close(). Should a wall or exec fail in the child, the exception goes through
        report instead: the parent kills the child, waits for it, closes every wall and raises the exception.""",
    )
    paper.head("The launcher's two sides in time")
    paper.box(_PARENT, 46, _WIDE, 32, ["*the parent: launch()"])
    paper.text(_CHILD + _WIDE / 2, 67, "*the child", _WIDE, anchor="middle")
    paper.line((_PARENT + _WIDE / 2, 78), (_PARENT + _WIDE / 2, 634))
    paper.line((_CHILD + _WIDE / 2, 160), (_CHILD + _WIDE / 2, 580))

    paper.box(_PARENT, 90, _WIDE, 46, ["makes two pipes:", "gate and report"])
    paper.box(_PARENT, 146, _WIDE, 46, ["`clone(flags)", "of all walls together"])
    paper.line((_END, 169), (_CHILD, 169), arrow=True)
    paper.box(_CHILD, 146, _WIDE, 152, ["*waits", "reads from the gate,", "and does nothing else"], "shared")
    paper.box(_PARENT, 206, _WIDE, 46, ["`a.outside(pid)", "`b.outside(pid)"])
    paper.box(_PARENT, 264, _WIDE, 34, ["writes to the gate"])
    paper.line((_END, 281), (_CHILD, 281), arrow=True)
    paper.box(
        _PARENT, 310, _WIDE, 150, ["*waits", "reads from report,", "until nobody is left", "who could write"], "shared"
    )
    paper.box(_CHILD, 310, _WIDE, 46, ["`a.inside()", "`b.inside()"])
    paper.box(_CHILD, 368, _WIDE, 92, ["`become()", "furnish, then exec,", "which closes its end", "of report"])
    paper.line((_CHILD, 447), (_END, 447), kind="shared", arrow=True)
    paper.box(_CHILD, 472, _WIDE, 108, ["*the program runs", "all walls around it"], "own")
    paper.box(_PARENT, 472, _WIDE, 108, ["*waits", "`waitpid(pid)", "for the exit status"], "shared")
    paper.line((_CHILD, 566), (_END, 566), arrow=True)
    paper.box(_PARENT, 592, _WIDE, 46, ["`b.close()", "`a.close()"])
    paper.text(_CHILD, 611, "in reverse order", _WIDE)

    paper.box(_PARENT, 660, WIDTH - 28, 112, (), "shared")
    lines = (
        "*Should a wall or exec fail in the child:",
        "the exception, pickled, goes through report instead.",
        "The parent kills the child, waits for it, calls",
        "close() of every wall in reverse order, and raises",
        "the exception as if it had failed in the caller.",
    )
    for number, words in enumerate(lines):
        paper.text(_PARENT + 10, 682 + number * LINE, words, WIDTH - 48)
    return paper.svg(786)


def init() -> str:
    """Init of stage 2: who is who, by which number, and what becomes of them."""
    paper = Paper(
        "stage02_init",
        "The fork of init, and two numbers for each process",
        """A box for the machine, and in it a box for the container's PID namespace. The launcher, process 100 of the
        machine, has cloned process 101, which is PID 1 inside. In the last inside() of all, PID 1 forks. It stays as
        init: it waits for any child, and passes signals on. Its child, 102 of the machine and PID 2 inside, execs and
        is the program. The program has a child, 103 and PID 3, and leaves it an orphan: then PID 1 is its parent. When
        the program ends, PID 1 ends with its exit status, and the kernel kills whatever is left in the namespace. When
        the launcher dies, the kernel kills PID 1. The numbers of the machine are examples.""",
    )
    paper.head("PID 1 stays, its child goes on")
    paper.box(8, 48, WIDTH - 16, 516, (), "shared")
    paper.text(20, 70, "the machine (numbers outside: examples)", 400)
    paper.box(24, 82, 210, 64, ["*the launcher", "outside 100", "waits for 101"])
    paper.box(24, 190, WIDTH - 48, 364, (), "own")
    paper.text(96, 212, "*the container's PID namespace", 360)
    paper.line((80, 146), (80, 226), arrow=True)
    paper.text(92, 172, "`clone(CLONE_NEWPID)", 260)

    paper.box(40, 226, 176, 84, ["*init", "*inside PID 1", "outside 101", "`inside() of Init"])
    paper.box(290, 226, 190, 84, ["*the program", "*inside PID 2", "outside 102", "`exec"])
    paper.line((216, 250), (290, 250), arrow=True)
    paper.text(253, 243, "fork", 60, anchor="middle")
    paper.line((216, 282), (290, 282), kind="shared", arrow=True)
    paper.text(253, 300, "signals", 66, anchor="middle")
    paper.box(290, 366, 190, 64, ["*an orphan", "*inside PID 3", "outside 103"])
    paper.line((385, 310), (385, 366), arrow=True)
    paper.text(394, 344, "fork", 60)
    paper.line((290, 398), (128, 398), (128, 310), kind="shared", arrow=True)
    paper.text(36, 424, "when its parent has ended,", 246)
    paper.text(36, 443, "its parent is PID 1", 246)
    paper.text(36, 480, "Init waits for any child, and passes signals on", 444)
    paper.text(36, 499, "to PID 2. When PID 2 ends, PID 1 ends with", 452)
    paper.text(36, 518, "its status, and the kernel kills what is left here.", 452)
    paper.text(36, 537, "When the launcher dies, the kernel kills PID 1.", 452)
    return paper.svg(574)
