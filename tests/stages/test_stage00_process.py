"""Stage 0, a process: what is asked of it.

Each test runs twice, on the reference and on your file, each time on a fresh throwaway machine. `machine.probe()`
is a shell that says hello and then does what it is told line by line, so that the kernel can be asked about it
while it runs; what it is told is decided only then.
"""

import errno
import signal

import pytest

from thinwalls import facts


@pytest.mark.task("0.1")
def test_a_program_runs_as_a_child_and_its_exit_status_comes_back(machine):
    machine.did("called run() with a shell that waits to be told how to end")
    machine.call("stage00_process.run", machine.probe())
    probe = machine.meet(
        maybe="where it returned 125, the child raised something else than an OSError (print it there); other numbers: "
        "does execve get all of program.argv, the name too, and does the parent wait for the child, with os.waitpid?"
    )
    shell = facts.Process(machine.runner.pid).sees("/bin/sh")
    yours = "the shell" if probe.process.executable() == shell else "another program"
    machine.expect("the process that runs is the program itself", yours == "the shell", yours)
    took_its_place = probe.process.pid == machine.runner.pid
    machine.expect(
        "it is another process than the caller",
        not took_its_place,
        "it took the caller's place" if took_its_place else "it is",
        "clone() gives 0 in the child, and only the child becomes the program",
    )
    yours = "its caller" if probe.process.parent() == machine.runner.pid else "another process"
    machine.expect(
        "its parent is the process that called run()",
        yours == "its caller",
        yours,
        "the program should be a child made by linux.clone(), with nothing in between",
    )
    number = machine.random.randint(2, 120)
    machine.did(f"told it to `exit {number}`")
    probe.tell(f"exit {number}")
    outcome = machine.outcome()
    machine.expect(
        f"run() returns {number}",
        outcome.returned == number,
        outcome,
        "the parent waits for the child with os.waitpid; the status that it gives has the exit code in its upper byte",
    )

    machine.did(
        "put two programs of one name in two directories, a file of that name that may not be executed in a third, and "
        "ran it with all in PATH of Program.env, the third one first"
    )
    name, (one, two, three) = machine.word(), (f"/tmp/{machine.word()}" for _ in range(3))
    machine.plant(f"{one}/{name}", f"#!/bin/sh\nexit {number}\n", mode=0o755)
    machine.plant(f"{two}/{name}", machine.script(), mode=0o755)
    machine.plant(f"{three}/{name}", f"#!/bin/sh\nexit {number}\n", mode=0o644)
    environment = {"PATH": f"/nowhere:{three}:{two}:{one}"}
    machine.call("stage00_process.run", machine.program([name], env=environment))
    probe = machine.meet(
        "the one in the first directory where it may be executed runs",
        "the kernel does not search PATH: become() must, in that of program.env, not of os.environ; and after a "
        "FileNotFoundError or a PermissionError it goes on searching",
    )
    yours = probe.process.environ()
    machine.expect(
        "its environment is program.env",
        yours == environment,
        ", ".join(sorted(yours)),
        "execve takes the whole environment as its third argument",
    )
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("0.2")
def test_exit_statuses_are_those_of_a_shell(machine):
    missing, closed, text = (f"/tmp/{machine.word()}" for _ in range(3))
    here = machine.word()
    machine.plant(closed, "#!/bin/sh\n", mode=0o644)
    machine.plant(text, "this is no program\n", mode=0o755)
    machine.plant(f"/tmp/{here}", "#!/bin/sh\nexit 99\n", mode=0o755)
    forbidden, directory = machine.word(), f"/tmp/{machine.word()}"
    machine.plant(f"{directory}/{forbidden}", "#!/bin/sh\n", mode=0o644)
    path = {"env": {"PATH": f"/nowhere:{directory}:/empty"}}
    scenes = [
        ("a program that does not exist", missing, {}, 127),
        ("one that is not in PATH", machine.word(), {}, 127),
        ("one that is not in PATH but in its working directory", here, {"cwd": "/tmp"}, 127),
        ("a name, with no PATH in its environment", machine.word(), {"env": {"HOME": "/"}}, 127),
        ("a file without permission to execute it", closed, {}, 126),
        ("a name for which PATH leads to such a file, and to nothing else", forbidden, path, 126),
        ("a file that is no program", text, {}, 126),
        ("a directory", "/tmp", {}, 126),
    ]
    machine.random.shuffle(scenes)
    for what, name, given, status in scenes:
        machine.did(f"ran {what}")
        machine.call("stage00_process.run", machine.program([name], **given))
        outcome = machine.outcome()
        machine.expect(
            f"run() returns {status}",
            outcome.returned == status,
            outcome,
            "what may not be executed is no FileNotFoundError: become() remembers it while it searches on"
            if given is path and outcome.returned == 127
            else "refusal() makes 127 of a FileNotFoundError and 126 of any other OSError; become() raises them"
            if outcome.returned in range(256)
            else "a child whose exec fails must end by os._exit; otherwise it runs on as a second copy of the caller",
        )
        machine.expect("the child has ended, and was waited for", not machine.left(), _count(machine.left()))

    number = machine.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
    machine.did(f"ran a shell and killed it with signal {number}")
    machine.call("stage00_process.run", machine.probe())
    machine.meet().tell(f"kill -{number} $$")
    outcome = machine.outcome()
    machine.expect(
        f"run() returns 128 + {number}",
        outcome.returned == 128 + number,
        outcome,
        "os.WIFSIGNALED tells a killed program from one that ended by itself",
    )

    machine.did("ran one with a null byte among its arguments, which Python itself refuses")
    machine.call("stage00_process.run", machine.program(["/bin/sh", "a\0b"]))
    outcome = machine.outcome()
    machine.expect(
        "the child does not run on in the parent's code",
        "stray" not in outcome.body,
        outcome if "stray" in outcome.body else "it does not",
        "not every failure is an OSError: whatever happens in the child, it ends by os._exit (in a finally)",
    )
    machine.expect("the child has ended, and was waited for", not machine.left(), _count(machine.left()))

    status = machine.random.randint(0, 255)
    machine.did(f"called exit_status() with the wait status of an exit({status})")
    machine.call("stage00_process.exit_status", status << 8)
    outcome = machine.outcome()
    machine.expect(f"it returns {status}", outcome.returned == status, outcome)
    machine.did("called it with the wait status of a program that was killed by SIGQUIT, and dumped core")
    machine.call("stage00_process.exit_status", signal.SIGQUIT | 0x80)
    outcome = machine.outcome()
    machine.expect(
        "it returns 131",
        outcome.returned == 131,
        outcome,
        "beside the signal's number there is a bit for a core dump: os.WTERMSIG takes the number alone",
    )


@pytest.mark.task("0.3")
def test_the_program_has_exactly_what_it_was_given(machine):
    stdin, stdout, stderr = machine.stream(), machine.stream(), machine.stream()
    key, value = machine.word().upper(), machine.word()
    directory, before = f"/tmp/{machine.word()}", machine.runner.cwd()
    machine.plant(f"{directory}/here", "")
    machine.clutter(descriptors=3, blocked=signal.SIGUSR1, ignored=signal.SIGUSR2)
    machine.did(
        "called run() with streams, a directory and an environment of its own, from a process with open "
        "inheritable files, SIGUSR1 blocked and SIGUSR2 ignored"
    )
    environment = {"PATH": "/bin", key: value}
    machine.call(
        "stage00_process.run", machine.probe(stdin=stdin, stdout=stdout, stderr=stderr, cwd=directory, env=environment)
    )
    probe = machine.meet(
        maybe="126: an OSError before or in exec, maybe in furnish(): a print(error) before os._exit shows which",
        says=stdout,
        hears=stdin,
        elsewhere="the caller's own streams came along: does become() call furnish(), just before exec?",
    )
    program = probe.process

    given = {0: stdin.file, 1: stdout.file, 2: stderr.file}
    found = program.descriptors()
    wrong = [fd for fd in given if found.get(fd) != given[fd]]
    machine.expect("0, 1 and 2 are the streams it was given", not wrong, f"wrong: {wrong}" if wrong else "they are")
    extra = sorted(set(found) - set(given))
    machine.expect(
        "no other descriptor is open",
        not extra,
        f"also open: {extra}" if extra else "none is",
        "some were inheritable: close_range(2) marks or closes them all, known or not",
    )
    yours = program.environ()
    machine.expect(
        f"its environment is PATH and {key}",
        yours == environment,
        ", ".join(sorted(yours)),
        "execve takes the whole environment as its third argument",
    )
    yours = "it is" if program.cwd() == machine.file(directory) else "it is another"
    machine.expect("its working directory is the one it was given", yours == "it is", yours)
    yours = "unchanged" if machine.runner.cwd() == before else "changed"
    machine.expect(
        "the caller's own working directory is unchanged",
        yours == "unchanged",
        yours,
        "furnish() is for the child: what the parent does to itself stays done",
    )
    blocked = program.signals("Blk")
    machine.expect("no signal is blocked", not blocked, f"blocked: {sorted(blocked)}", "the mask survives exec")
    ignored = program.signals("Ign") - {signal.SIGINT, signal.SIGQUIT}
    machine.expect(
        "no signal is ignored",
        not ignored,
        f"ignored: {sorted(ignored)}",
        "Python ignores SIGPIPE (13) and SIGXFSZ (25), and what is ignored stays so through exec",
    )

    probe.tell("exit 0")
    machine.outcome()
    machine.did("called run() with stdin and stdout the wrong way round: stdin=1, stdout=0")
    machine.call("stage00_process.run", machine.probe(stdin=1, stdout=0))
    copies = "dup2(1, 0) has overwritten the 0 that was still needed: copy the sources out of the way first"
    probe = machine.meet(
        "the program's standard output is the caller's 0", copies, machine.standard(0), machine.standard(1)
    )
    found, mine = probe.process.descriptors(), machine.runner.descriptors()
    yours = "swapped" if (found.get(0), found.get(1)) == (mine.get(1), mine.get(0)) else "not swapped"
    machine.expect("the program's 0 and 1 are the caller's 1 and 0", yours == "swapped", yours, copies)


@pytest.mark.task("0.4")
def test_the_child_waits_while_walls_are_put_up_on_both_sides(machine):
    from thinwalls.linux import CLONE_NEWIPC, CLONE_NEWUTS

    machine.did("launched a shell behind three walls, which ask for two namespaces, and looked at each hook")
    walls = [machine.beacon("a", CLONE_NEWUTS), machine.beacon("b", CLONE_NEWUTS), machine.beacon("c", CLONE_NEWIPC)]
    machine.call("stage00_process.launch", machine.probe(), walls)
    shell, slow = machine.file("/bin/sh"), machine.random.choice("ab")
    gate = "the child reads from a pipe before its first inside(); the parent writes after its last outside()"
    children = set()
    stuck = "the child waits: for the gate's end, of which it holds the other end too? One byte is enough to wait for"
    while len(machine.steps) < 6 and (step := machine.step(or_hello=True, maybe=stuck)):
        if step.hook == "outside":
            machine.linger(0.1 if step.wall == slow else 0)
            below = machine.left()
            children.update(below)
            started = [pid for pid in below if facts.Process(pid).executable() == shell]
            machine.expect(
                f"while outside() of {step.wall} runs, the child exists and has not become the program",
                len(below) == 1 and not started,
                f"{_children(len(below))}, {len(started) or 'none'} of them started",
                gate,
            )
            told = machine.names(step.told)
            machine.expect(
                "outside() is given the child's pid", told in below, "it is" if told in below else repr(step.told)
            )
    expected = ["a.outside", "b.outside", "c.outside", "a.inside", "b.inside", "c.inside"]
    machine.expect(
        "every outside() in order, then every inside() in order, then the program",
        machine.steps == expected,
        ", ".join(machine.steps) or "none is called",
        gate,
    )
    machine.expect(
        "outside() runs in the caller, inside() in the child",
        machine.callers == ["parent"] * 3 + ["child"] * 3,
        ", ".join(machine.callers),
    )
    probe = machine.meet()
    machine.expect(
        "the program is that same child",
        probe.process.pid in children,
        "it is" if probe.process.pid in children else "another process",
    )
    mine, own = machine.runner.namespaces(), probe.process.namespaces()
    new = sorted(name for name in own if own[name] != mine[name])
    machine.expect(
        "the namespaces that the walls' flags name are its own",
        new == ["ipc", "uts"],
        ", ".join(new) or "none",
        "clone gets the flags of all walls in one number, joined by |",
    )
    number = machine.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
    machine.did(f"killed it with signal {number}")
    probe.tell(f"kill -{number} $$")
    outcome = machine.outcome(
        "the program runs or has run, and launch() waits for something else: for the end of a pipe, of which it holds "
        "the writing end itself?"
    )
    machine.expect(
        "after the end, close() of every wall in reverse order",
        machine.steps[6:] == ["c.close", "b.close", "a.close"],
        ", ".join(machine.steps[6:]) or "none",
    )
    machine.expect(
        f"launch() returns 128 + {number}",
        outcome.returned == 128 + number,
        outcome,
        "exit_status() makes a number of what waitpid gave",
    )
    machine.did("launched a program with no wall at all")
    machine.call("stage00_process.launch", machine.program(["/bin/true"]))
    outcome = machine.outcome()
    machine.expect(
        "launch() returns 0", outcome.returned == 0, outcome, "no wall asks for no flag, which is 0 for clone"
    )

    machine.did("killed the launcher itself while it was in outside() of a wall, and the child waited")
    machine.call("stage00_process.launch", machine.program(["/bin/true"]), [machine.beacon("d")], apart=True)
    step = machine.step()
    machine.expect("outside() is called", step is not None, "it is" if step else machine.outcome())
    launcher = step.pid
    for child in machine.left().keys() - {launcher}:
        waiting = facts.Process(child)
        machine.settles(lambda: waiting.status()["State"][0] not in "ST")  # noqa: B023 (until it waits for something)
    machine.send(launcher, signal.SIGKILL)
    left = machine.settles(machine.left, 2)
    machine.expect(
        "the child ends too, without inside()",
        not left,
        _count(left),
        "its read ends, with b'', when nobody can write any more: so the child first closes its own copy of the "
        "writing end, and gives up at b''",
    )


@pytest.mark.task("0.5")
def test_whatever_fails_reaches_the_caller_and_leaves_nothing(machine):
    from thinwalls.linux import CLONE_FS, CLONE_NEWNS

    word = machine.word()
    long = word * 500
    scenes = [
        ("outside() of the second wall raises", ("outside", "PermissionError", [1, word]), "PermissionError", 2),
        ("inside() of the second wall raises", ("inside", "WallBroke", [long, 7]), "WallBroke", 5),
        ("inside() of the second wall raises an OSError", ("inside", "OSError", [28, "No space", word]), "OSError", 5),
        ("inside() of the second raises what cannot be written", ("inside", "WallStuck", [word]), "RuntimeError", 5),
    ]
    machine.random.shuffle(scenes)
    for what, fails, kind, hooks in scenes:
        machine.did(f"launched behind three walls, of which {what}")
        start, before = len(machine.steps), machine.runner.descriptors()
        walls = [machine.beacon("a"), machine.beacon("b", fails=fails), machine.beacon("c")]
        machine.call("stage00_process.launch", machine.program(["true"]), walls)
        outcome = machine.outcome(
            "does the child still wait at the gate, while the parent waits for the child? It has to be killed first"
            if fails[0] == "outside"
            else "the parent reads until nobody can write any more: does it still hold the pipe's writing end itself?"
        )
        steps = machine.steps[start:]
        if kind == fails[1]:
            what, maybe = f"the caller gets that very {kind}", "what is raised in the child must be sent through a pipe"
        else:
            what = "the caller gets a RuntimeError with its text"
            maybe = "pickle.dumps() raises for this one: then send a RuntimeError with str(error) in its place"
        machine.expect(what, outcome.raised == kind and word in str(outcome.error("text")), outcome, maybe)
        called = machine.callers[start : start + hooks]
        machine.expect(
            "outside() was called by the caller, inside() by the child",
            called == ["parent"] * min(hooks, 3) + ["child"] * (hooks - 3),
            ", ".join(called),
        )
        if kind == "WallBroke":
            same = outcome.error("args") == repr(tuple(fails[2]))[:2000]  # so much of it is handed on
            machine.expect(
                "with the arguments it had",
                same,
                "it has them" if same else f"{outcome.error('args')[:80]} ...",
                "a text alone is not enough to make an exception again: pickle keeps its arguments",
            )
        if kind == "OSError":
            machine.expect(
                "with its errno and filename",
                outcome.error("errno") == 28 and outcome.error("filename") == word,
                f"errno {outcome.error('errno')}, filename {outcome.error('filename')}",
                "a text alone is not enough to make an exception again: pickle keeps its arguments",
            )
        after = [step for step in steps if step.endswith(".close")]
        machine.expect(
            "every wall is closed, in reverse order",
            after == ["c.close", "b.close", "a.close"],
            ", ".join(after) or "none is closed",
            "a finally, or contextlib.ExitStack, sees to it on every way out",
        )
        machine.expect(
            "no hook is called after the one that failed",
            steps[hooks:] == after,
            ", ".join(steps),
            "a gate that is closed without a word opens too: read gives b'' then, and that means to give up",
        )
        machine.expect(
            "no process is left",
            not machine.left(),
            _count(machine.left()),
            "a child that was not waited for stays as a zombie; one that waits at the gate stays for ever",
        )
        _no_more_descriptors(machine, before)

    machine.did("launched behind a wall whose flags clone(2) refuses")
    before = machine.runner.descriptors()
    machine.call("stage00_process.launch", machine.program(["true"]), [machine.beacon("d", CLONE_NEWNS | CLONE_FS)])
    outcome = machine.outcome()
    refused = outcome.raised == "OSError" and outcome.error("errno") == errno.EINVAL
    machine.expect("the caller gets clone's OSError", refused, "it does" if refused else outcome)
    closed = machine.steps[-1:] == ["d.close"]
    machine.expect(
        "the wall is closed",
        closed,
        "it is" if closed else "it is not",
        "linux.clone() itself can raise, before there is a child: it belongs inside the try, or the ExitStack, too",
    )
    _no_more_descriptors(machine, before)

    silent = (
        "exec failed, and the launcher took silence for success: did furnish() close the pipe before exec could report? "
        "It is to be marked close-on-exec"
    )
    name = f"no-{word}"
    machine.did("launched a program that does not exist")
    machine.call("stage00_process.launch", machine.program([name]), [machine.beacon("a")])
    outcome = machine.outcome()
    yours = (outcome.raised, outcome.error("filename"))
    machine.expect(
        "the caller gets a FileNotFoundError with that name",
        yours == ("FileNotFoundError", name),
        outcome,
        "" if outcome.raised else silent,
    )
    machine.expect("no process is left", not machine.left(), _count(machine.left()))
    text = f"/tmp/{machine.word()}"
    machine.plant(text, "this is no program\n", mode=0o755)
    scenes = [
        ("a path where nothing is", f"/tmp/{name}", "FileNotFoundError", errno.ENOENT),
        ("a file that is no program", text, "OSError", errno.ENOEXEC),
        ("a directory", "/tmp", "PermissionError", errno.EACCES),
    ]
    machine.random.shuffle(scenes)
    for what, path, kind, number in scenes:
        machine.did(f"launched {what}")
        machine.call("stage00_process.launch", machine.program([path]), [machine.beacon("a")])
        outcome = machine.outcome()
        same = (outcome.raised, outcome.error("errno")) == (kind, number)
        machine.expect(
            f"the caller gets the {kind} of execve",
            same,
            "it does" if same else outcome,
            "" if outcome.raised else silent,
        )
        machine.expect("no process is left", not machine.left(), _count(machine.left()))

    machine.did("launched a program in which nothing fails")
    machine.call("stage00_process.launch", machine.program(["/bin/true"]), [machine.beacon("a")])
    outcome = machine.outcome(
        "an exec that succeeds says nothing: the parent reads the end of the pipe once nobody can write, itself included"
    )
    machine.expect("launch() returns 0", outcome.returned == 0, outcome)


def _no_more_descriptors(machine, before):
    more = sorted(set(machine.runner.descriptors()) - set(before))
    machine.expect(
        "the caller has no more open descriptors than before",
        not more,
        f"also open: {more}" if more else "it has not",
        "every end of every pipe is closed by the caller, on every way out",
    )


def _children(number):
    return "one child" if number == 1 else f"{number} children"


def _count(left):
    zombies = sum(state == "Z" for state in left.values())
    return f"{_children(len(left))}, {zombies or 'none'} of them a zombie" if left else "none is left"
