"""Stage 4, cgroups: what is asked of it. How to read these tests: see the top of test_stage00_process.py."""

import errno
import signal
import time

import pytest

from thinwalls import facts
from thinwalls.cgroupfs import PERIOD

LAUNCH, CGROUP = "stage00_process.launch", "stage04_cgroups.Cgroup"
MIB = 2**20
HOG = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
BOMB = "bomb() { bomb & bomb & wait; }; bomb"


@pytest.mark.task("4.1")
def test_the_program_is_in_a_cgroup_of_its_own_from_its_first_instruction(machine):
    machine.did("launched a shell behind Cgroup()")
    machine.call(LAUNCH, machine.probe(), [machine.beacon("first"), machine.made(CGROUP)])
    step = _until(machine, "first", "inside")
    yours = "it does" if step else str(machine.outcome())
    machine.expect("the wall goes up", step is not None, yours)
    first = machine.group(facts.Process(step.pid))
    machine.expect(
        "before its first instruction the child is in a cgroup that was made for it",
        first.name != "",
        "it is" if first.name else "it is in none",
        "outside() is called while the child waits: that is the moment to put it in",
    )
    machine.expect(
        f"for each controller: {', '.join(filter(None, machine.cgroups)) or 'all'}",
        first.controllers() == sorted(machine.cgroups),
        ", ".join(first.controllers()) or "all",
        "on v1 every controller has its own tree, and its own cgroup.procs",
    )
    machine.expect(
        "memory and processes can be limited in it",
        bool(first.text("memory") and first.text("pids")),
        "they can" if first.text("memory") and first.text("pids") else "there are no files for that",
        "on v2 the parent has to enable a controller in its cgroup.subtree_control",
    )
    own = machine.group(machine.runner).name
    yours = "it is not" if not own else "it is in it"
    machine.expect(
        "the launcher is not in it", own == "", yours, "enter() puts in the child, by its pid, and nobody else"
    )
    probe = machine.meet()
    child = machine.names(int(probe.ask("sleep 1000 & echo $!")))
    name = machine.group(facts.Process(child)).name if child else ""
    machine.expect(
        "its children are in it too", name == first.name, "they are" if name == first.name else "they are not"
    )
    probe.tell("kill $!; exit 0")
    machine.outcome()


@pytest.mark.task("4.2")
def test_memory_has_a_limit_and_meeting_it_is_told(machine):
    number = machine.random.randint(24, 40)
    behind = ["64m ", "64\n", "٣m", "64\u212a"]  # the last is the Kelvin sign, which lower() makes a k of
    _parses(
        machine,
        "parse_size",
        {"4096": 4096, "17b": 17, f"{number}k": number * 1024, f"{number}M": number * MIB, "3g": 3 * 1024 * MIB},
        ["", "m", "0", "0k", "-1", "+1m", "1.5g", "64mb", "6 4m", "1_000", "0x10", "1e6", "nan", *behind],
    )
    machine.did(f"asked for a container with Cgroup(memory='{number}q')")
    machine.call(LAUNCH, machine.probe(), [machine.made(CGROUP, f"{number}q")])
    outcome = machine.outcome()
    machine.expect(
        "it raises ValueError, and makes no cgroup", outcome.raised == "ValueError" and not machine.groups(), outcome
    )
    order = ""
    if "memory" in machine.cgroups:
        order = (
            "Invalid argument: memory may never exceed memory with swap, so a lower limit of memory has to be set first"
        )
    for ends in machine.random.sample(["takes more and more memory", "kills itself"], 2):
        machine.did(f"launched a shell behind Cgroup(memory='{number}m'), Pids() and Init(), which {ends}")
        machine.call(LAUNCH, machine.probe(), _walls(machine, f"{number}m"))
        probe = machine.meet(maybe=order)
        group = machine.group(probe.process)
        _limited(machine, group, "memory", number * MIB)
        if swap := group.text("swap"):
            good = swap == "0" or group.number("swap") == number * MIB
            yours = swap if group.number("swap") < 2**60 else f"{swap} (no limit)"
            maybe = "a process at its limit would go on in the swap space"
            machine.expect("swap does not add to it", good, yours, maybe)
        probe.tell(HOG if ends.startswith("takes") else "kill -KILL $$")
        status = machine.outcome()
        machine.expect("launch() returns 137", status.returned == 137, status)
        told = machine.attribute(CGROUP, "out_of_memory")
        machine.expect(
            f"out_of_memory is {ends.startswith('takes')}",
            told.returned is ends.startswith("takes"),
            told.value,
            "137 says that it was killed; that it was for memory is counted in the cgroup, and must be read before the end of "
            "that, in the line whose first word is the key: on v1 others only begin like it",
        )
    _never_made(machine, "killed_for_memory() gives False")
    told = machine.attribute(CGROUP, "out_of_memory")
    machine.expect(
        "out_of_memory is False", told.returned is False, told.value, "nothing was made, and nobody was killed"
    )


@pytest.mark.task("4.3")
def test_a_fork_bomb_stays_inside_and_ends(machine):
    most = machine.random.randint(6, 16)
    _parses(machine, "parse_count", {"1": 1, f"{most}": most}, ["", "0", "-3", "+3", "3.0", "3 ", "many", "٣", "1_0"])
    machine.did(
        f"launched a shell behind Cgroup(pids='{most}'), Pids() and Init(), and had it run a fork bomb for a while"
    )
    machine.call(LAUNCH, machine.probe(), _walls(machine, "", f"{most}"))
    probe = machine.meet()
    group = machine.group(probe.process)
    _limited(machine, group, "pids", most)
    probe.tell("exec 2>&-")  # what shells say of forks that are refused is not the learner's to read
    probe.tell(f"{BOMB} &")
    bombs = max(len(group.processes()) for _ in range(20) if time.sleep(0.01) is None)
    machine.expect(f"there were never more than {most} processes", 1 < bombs <= most, f"there were {bombs}")
    refused = group.number("refused forks") > 0
    machine.expect("the kernel refused a fork in its cgroup", refused, "it did" if refused else "it did not")
    probe.tell("exit 7")
    outcome = machine.outcome()
    machine.expect("launch() returns the exit status", outcome.returned == 7, outcome)


@pytest.mark.task("4.4")
def test_a_busy_loop_gets_its_share(machine):
    cpus = machine.random.choice(["0.1", ".12", "0.150", "0.18"])
    _parses(
        machine,
        "parse_cpus",
        {"2": 2 * PERIOD, "1.25": 125_000, cpus: round(float(cpus) * PERIOD), "0.29": 29_000, "0.01": 1000},
        ["", ".", "0", "0.0", "0.001", "-1", "+1", "1.", "1e1", "nan", "inf", "1,5", "0.5 ", "½", "٣"],
    )
    machine.did(f"launched a shell behind Cgroup(cpus='{cpus}'), and had it run a busy loop")
    machine.call(LAUNCH, machine.probe(), [machine.made(CGROUP, "", "", cpus)])
    probe = machine.meet()
    group, quota = machine.group(probe.process), float(cpus) * PERIOD
    _limited(machine, group, "quota", round(quota))
    probe.tell("while :; do :; done")
    # Once is an accident, on a machine whose own processors come and go: who has no limit gets too much every time.
    share = machine.settles(lambda: _too_much(group, 1.5 * float(cpus)), 2)
    machine.expect(f"it gets {cpus} processors, or less", share == 0, f"{share:.2f}" if share else "it does")
    free = machine.settles(lambda: group.number("throttled time") <= 0, 3)
    machine.expect("the kernel holds it back, for it would take more", not free, "it does not" if free else "it does")
    machine.send(probe.process.pid, signal.SIGKILL)
    machine.outcome()


@pytest.mark.task("4.5")
def test_nothing_is_left_of_it(machine):
    frozen = "; all of it was frozen" if "" in machine.cgroups else ""  # the key of v2's one tree
    machine.did(
        "launched a shell behind Cgroup(), which left behind sleepers that ignore signals, one of them stopped and one in a "
        f"cgroup below, and a loop that forks{frozen}"
    )
    bystander = machine.start(["sleep", "1000"])
    machine.call(LAUNCH, machine.probe(), [machine.made(CGROUP), machine.beacon("end")])
    probe = machine.meet()
    group = machine.group(probe.process)
    probe.tell("trap '' TERM HUP INT; sleep 1000 & sleep 1000 & kill -STOP $!; (while :; do (:); done) 2>&- &")
    sleeper = machine.names(int(probe.ask("sleep 1000 & echo $!")))
    if sleeper and group.name:
        group.divide(machine.word(), sleeper)
    probe.tell("exit 0")
    _until(machine, "end", "close")
    group.freeze()
    busy = "rmdir is refused as long as somebody is in a cgroup, or a cgroup is below it: read the list again, and those below"
    while machine.step(maybe=busy):
        pass
    outcome = machine.outcome()
    is_busy = outcome.error("errno") == errno.EBUSY
    machine.expect("launch() returns 0", outcome.returned == 0, outcome, busy if is_busy else "")
    left = machine.settles(lambda: machine.left().keys() - {bystander.pid})
    killed = "who forks must be asked for again until there is nobody"
    if sleeper in left:
        killed = "close() calls remove(), last of all; and a signal that can be ignored is not enough"
    machine.expect("no process is left", not left, f"{len(left)} are left" if left else "none is", killed)
    lives = not bystander.ended()
    machine.expect("a process outside lives on", lives, "it does" if lives else "it was killed")
    _no_group(machine)

    for fails in machine.random.sample(["before", "outside", "inside", "exec"], 4):
        machine.did(f"had a start fail: {SCENES[fails]}")
        machine.call(LAUNCH, machine.program(["/no/such"] if fails == "exec" else ["true"]), _failing(machine, fails))
        outcome = machine.outcome()
        expected = "FileNotFoundError" if fails == "exec" else "WallBroke"
        machine.expect(
            f"launch() raises {expected}", outcome.raised == expected, outcome, "close() is called even then"
        )
        _no_group(machine)


@pytest.mark.task("4.6")
def test_what_it_has_taken_can_be_read(machine):
    left, doublings = machine.random.randint(2, 6), machine.random.randint(18, 20)
    machine.did(
        f"launched a shell behind Cgroup(cpus='0.1'), which made a text of {2**doublings >> 16} MiB, counted for a while, and "
        f"left {left} processes behind"
    )
    machine.call(LAUNCH, machine.probe(), [machine.made(CGROUP, "", "", "0.1"), machine.beacon("end")])
    probe = machine.meet()
    group = machine.group(probe.process)
    probe.tell("x=aaaaaaaaaaaaaaaa; " + "x=$x$x; " * doublings)
    for _ in range(100):  # a fast machine needs to count for longer until it is held back
        probe.ask("i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; echo counted")
        if group.number("throttled time") > 0:
            break
    probe.tell("sleep 1000 & " * left + "exit 0")
    step = _until(machine, "end", "close")
    machine.expect("the program ended", step is not None, "it did" if step else str(machine.outcome()))
    names = {"memory": "peak memory", "cpu": "cpu time", "throttled": "throttled time", "processes": "processes"}
    real = {name: group.number(what) for name, what in names.items()}
    machine.outcome()
    for name, amount in real.items():
        told = machine.attribute(
            CGROUP, f"usage.{name}", "measure() returns a Usage, and close() keeps it in self.usage"
        )
        close = isinstance(told.returned, int | float) and abs(told.returned - amount) <= 0.1 * amount + 0.01
        machine.expect(
            f"usage.{name} is what the kernel counted",
            close,
            "it is" if close else f"{told.value}, where the kernel has {amount:.6g}",
            "numbers must be read before the cgroup is removed; and they have units: the table has `unit` and `key`",
        )

    _never_made(machine, "measure() gives 0")
    for name in names:
        told = machine.attribute(CGROUP, f"usage.{name}", "of a cgroup that was never made there is a Usage too")
        machine.expect(f"usage.{name} is 0", told.returned == 0, told.value, "nothing was made, and nothing was taken")


@pytest.mark.task("4.7")
def test_the_limit_stays_when_no_user_namespace_can_be_made(machine):
    low, high = machine.random.randint(24, 40), machine.random.randint(100, 200)
    machine.did(
        f"put up the reference's Cgroup(memory='{low}m'), Pids(), Filesystem() and Init(), and called raise_limit()"
    )
    walls = [
        machine.made(f"reference.{CGROUP}", f"{low}m"),
        machine.made("reference.stage02_pid_namespace.Pids"),
        machine.made("reference.stage03_mount_namespace.Filesystem", machine.rootfs),
        machine.intruder("stage04_cgroups.raise_limit", high * MIB),
        machine.made("reference.stage02_pid_namespace.Init"),
    ]
    machine.call("reference.stage00_process.launch", machine.probe(), walls)
    maybe = "a directory to mount on has to be made; the file is below it, at the path that /proc/self/cgroup tells"
    if "memory" in machine.cgroups:
        maybe += "; on v1 memory may never exceed memory with swap: so that limit first"
    probe = machine.meet(maybe=maybe)
    limit = machine.group(probe.process).number("memory") / MIB
    machine.expect(f"its limit is {high} MiB", limit == high, f"{limit:.0f} MiB")
    swap = machine.group(probe.process).number("swap") / MIB
    machine.expect("with swap it is no less", swap in (high, 0, -1 / MIB), f"{swap:.0f} MiB")
    probe.tell("exit 0")
    machine.outcome()

    machine.did("tried to make a user namespace behind your OneUserNamespace()")
    makes = machine.beacon("makes", calls=("inside", "thinwalls.linux.unshare", 0x10000000))
    wall = machine.made("stage04_cgroups.OneUserNamespace")
    machine.call("reference.stage00_process.launch", machine.program(["true"]), [wall, makes])
    step = _until(machine, "makes", "inside")
    answer = str(step.answer) if step else str(machine.outcome())
    refused = step is not None and "OSError(28" in answer
    maybe = "whoever makes a user namespace has every capability in it, and may mount a cgroupfs again"
    machine.expect("the kernel refuses (ENOSPC)", refused, "it was made" if answer == "None" else answer, maybe)
    machine.outcome()
    for title, fails in (
        ("after the end of the container", None),
        ("after a failed start", ("outside", "WallBroke", ["x"])),
    ):
        machine.did(f"tried to make a user namespace on the machine {title}")
        order = [machine.beacon("fails", fails=fails), wall]
        machine.call("reference.stage00_process.launch", machine.program(["true"]), order)
        outcome = machine.outcome()
        as_it_should = outcome.raised == "WallBroke" if fails else outcome.returned == 0
        machine.expect("launch() raises WallBroke" if fails else "launch() returns 0", as_it_should, outcome)
        after = machine.beacon("after", flags=0x10000000)
        machine.call("reference.stage00_process.launch", machine.program(["true"]), [after])
        outcome = machine.outcome()
        machine.expect(
            "one can be made again", outcome.returned == 0, outcome, "close() gives back what outside() took"
        )


SCENES = {
    "before": "a wall before Cgroup() raised in its outside(), so that of Cgroup() was never called",
    "outside": "a wall after Cgroup() raised in its outside()",
    "inside": "a wall after Cgroup() raised in its inside()",
    "exec": "there is no such program",
}


def _too_much(group, most):
    """How many processors a group has used for half a second, if that is more than ``most``; otherwise 0."""
    began, before = time.monotonic(), group.number("cpu time")
    time.sleep(0.5)
    share = (group.number("cpu time") - before) / (time.monotonic() - began)
    return share if share >= most else 0


def _never_made(machine, word):
    """Have a start fail before there is a cgroup, which close() is called after."""
    machine.did(f"had a start fail: {SCENES['before']}")
    broken = machine.beacon("breaks", fails=("outside", "WallBroke", ["broken"]))
    machine.call(LAUNCH, machine.program(["true"]), [broken, machine.made(CGROUP, "64m")])
    outcome = machine.outcome()
    maybe = f"close() is called even then, when there are no files to read: {word} for a cgroup that was never made"
    machine.expect("launch() raises WallBroke", outcome.raised == "WallBroke", outcome, maybe)


def _failing(machine, fails):
    """Walls of which one fails: a Cgroup, and a beacon."""
    hook = "inside" if fails == "inside" else "outside"
    broken = machine.beacon("breaks", fails=(hook, "WallBroke", ["broken"]) if fails != "exec" else None)
    walls = [machine.made(CGROUP, "64m", "32", "0.5"), broken]
    return walls[::-1] if fails == "before" else walls


def _walls(machine, *limits):
    """A container whose processes end with its init."""
    init = [machine.made("stage02_pid_namespace.Pids"), machine.made("stage02_pid_namespace.Init")]
    return [machine.made(CGROUP, *limits), *init]


def _until(machine, wall, hook):
    """Let everything go on until this hook of a beacon is called; None if that never was."""
    while (step := machine.step()) and (step.wall, step.hook) != (wall, hook):
        pass
    return step


def _limited(machine, group, what, amount):
    """The cgroup's own file says so."""
    found, number = group.text(what), group.number(what)
    none = f"{found} (no limit)" if not 0 <= number < 2**60 else found  # "max", -1, or all that v1 can count
    call = "limit_cpu" if what == "quota" else f"limit_{what}"
    maybe = f"outside() calls {call}(), before enter()" if none != found else ""
    machine.expect(f"the limit of its cgroup is {amount}", number == amount, none if found else "there is none", maybe)


def _no_group(machine):
    names = machine.groups()
    machine.expect("no cgroup is left", not names, ", ".join(names) or "none is", "rmdir, of the deepest one first")


def _parses(machine, function, good, bad):
    """The function gives the right numbers, and refuses nonsense."""
    machine.did(f"called {function}()")
    for text, amount in good.items():
        machine.call(f"stage04_cgroups.{function}", text)
        outcome = machine.outcome()
        machine.expect(f"{function}({text!a}) returns {amount}", outcome.returned == amount, outcome)
    for text in bad:  # written in ASCII, where a sign of another script looks like what it is not
        machine.call(f"stage04_cgroups.{function}", text)
        outcome = machine.outcome()
        refused = outcome.raised == "ValueError"
        maybe = _too_friendly(text) if "returned" in outcome.body else ""
        machine.expect(f"{function}({text!a}) raises ValueError", refused, outcome, maybe)


def _too_friendly(text):
    """Who may have let a text in that is no amount."""
    if "\u212a" in text:
        return "the Kelvin sign is no k, but .lower() makes one of it"
    if not text.isascii():
        return "a digit of another script: int(), float(), \\d and str.isdigit() take those too"
    if text.endswith("\n"):
        return "'$' in a pattern also stands before a newline at the end: re.fullmatch"
    if set(text) & set("+-_ ") or text in ("1e1", "1e6", "nan", "inf"):
        return "int() and float() take signs, blanks and underscores, float() also exponents and nan: look at the characters"
    return ""
