"""Stage 2, the PID namespace: what is asked of it. How to read these tests: see the top of test_stage00_process.py."""

import signal

import pytest

from thinwalls import facts
from thinwalls.grading.machine import PID


@pytest.mark.task("2.1")
def test_the_container_has_a_hostname_and_ipc_of_its_own(machine):
    name, before = machine.word(), machine.runner.namespaces()
    machine.did("launched a shell behind Uts(), and asked the kernel for its namespaces and its host name")
    machine.call("stage00_process.launch", machine.probe(), [machine.made("stage02_pid_namespace.Uts", name)])
    probe = machine.meet()
    own = probe.process.namespaces()
    new = sorted(each for each in own if own[each] != before[each])
    machine.expect(
        "it has its own UTS and IPC namespaces, and shares the others",
        new == ["ipc", "uts"],
        ", ".join(new) or "none",
        "a wall's flags say what the child is born into",
    )
    hostname = probe.process.hostname()
    machine.expect(
        f"its host name is {name}",
        hostname == name,
        hostname,
        "the child sets it, in inside(): what the launcher sets is the machine's",
    )
    hostname = machine.runner.hostname()
    machine.expect(
        "the machine's host name is what it was",
        hostname == "machine",
        hostname,
        "only the child is in the new namespace, and only inside() runs in the child",
    )
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("2.2")
def test_the_program_has_a_number_of_its_own_and_others_have_none(machine):
    machine.did("launched a shell behind Pids()")
    machine.call("stage00_process.launch", machine.probe(), [machine.made("stage02_pid_namespace.Pids")])
    probe = machine.meet()
    numbers = probe.process.status()["NSpid"].split()
    depth = len(machine.runner.status()["NSpid"].split())
    machine.expect(
        "it is in a PID namespace one level deeper, as number 1",
        numbers[depth:] == ["1"],
        f"its number there is {' '.join(numbers[depth:])}" if numbers[depth:] else "it is in the machine's own",
        "a wall's flags say what the child is born into: CLONE_NEWPID",
    )
    other = machine.runner.status()["NSpid"].split()[-1]
    answer = probe.ask(f"kill -0 {other} 2>/dev/null && echo reached || echo unreachable")
    machine.expect("a process outside cannot be signalled from inside", answer == "unreachable", answer)
    probe.tell("exit 0")
    machine.outcome()

    machine.did(
        "called pid_inside() with the child of a launch behind Pids(), with its own process, and with a number "
        "that no process has"
    )
    walls = [
        machine.made("stage02_pid_namespace.Pids"),
        machine.beacon("asks", calls=("outside", "stage02_pid_namespace.pid_inside", PID)),
    ]
    machine.call("stage00_process.launch", machine.program(["true"]), walls)
    step = machine.step()
    machine.expect(
        "it returns 1",
        step is not None and step.answer == "1",
        step and step.answer,
        "the numbers after NSpid go from the outermost namespace to the innermost",
    )
    machine.outcome()
    machine.call("stage02_pid_namespace.pid_inside", int(other))
    outcome = machine.outcome()
    machine.expect(
        "for a process of the caller's own namespace it returns the same number",
        str(outcome.returned) == other,
        "it does" if str(outcome.returned) == other else outcome,
        "NSpid has as many numbers as there are namespaces, this one's at the front: of one it is the last, too",
    )
    machine.call("stage02_pid_namespace.pid_inside", 2**22 - 1)
    outcome = machine.outcome()
    machine.expect("for no process it raises ProcessLookupError", outcome.raised == "ProcessLookupError", outcome)


@pytest.mark.task("2.3")
def test_an_init_reaps_every_orphan(machine):
    machine.did("launched a shell behind Pids() and Init()")
    walls = [machine.made("stage02_pid_namespace.Pids"), machine.made("stage02_pid_namespace.Init")]
    machine.call("stage00_process.launch", machine.probe(), walls)
    probe = machine.meet()
    init = facts.Process(probe.process.parent())
    numbers = [process.status()["NSpid"].split()[-1] for process in (init, probe.process)]
    machine.expect(
        "init is number 1, the program its child, number 2",
        numbers == ["1", "2"],
        f"the program is number {numbers[1]}, its parent number {numbers[0]}",
        "in Init's inside() the parent stays, as number 1, and the child returns and goes on to exec",
    )
    open_files = machine.settles(init.descriptors, 2)
    machine.expect(
        "init holds no descriptor",
        not open_files,
        f"it holds {len(open_files)}",
        "the end of a pipe that init still holds never comes for the one who reads it",
    )
    machine.did("had it start and abandon a process that ends soon, and then three more")
    probe.tell("(sleep 0.01 &)")
    ended = init.ended(0.1)
    machine.expect(
        "init still waits for the program",
        not ended,
        "it has ended, and all the others with it" if ended else "it does",
        "only the end of the program itself ends the loop",
    )
    # cat reads until the last of them has ended, for they all hold the other end of its pipe. Init is stopped
    # meanwhile: it hears of all three in one.
    machine.send(init.pid, signal.SIGSTOP)
    probe.ask("{ (sleep 0.01 &); (sleep 0.02 &); (setsid sleep 0.03 &); } | cat; sleep 0.05; echo done")
    machine.send(init.pid, signal.SIGCONT)
    zombies = machine.settles(lambda: list(machine.left().values()).count("Z"), 2)
    machine.expect(
        "no zombie is left",
        zombies == 0,
        f"{zombies} zombies, their parent is PID 1",
        "orphans are handed to PID 1 too: wait for -1, in a loop (and one SIGCHLD may stand for several ends)",
    )
    number = machine.random.randint(2, 120)
    probe.tell(f"exit {number}")
    outcome = machine.outcome()
    machine.expect(
        f"launch() returns the program's own status, {number}",
        outcome.returned == number,
        outcome,
        "PID 1 ends by os._exit (not by an exception, such as sys.exit), with exit_status() of what waitpid gave",
    )
    machine.did("launched a program that kills itself with SIGKILL behind the same walls")
    machine.call("stage00_process.launch", machine.program(["sh", "-c", "kill -KILL $$"]), walls)
    outcome = machine.outcome()
    machine.expect(
        "launch() returns 137, as a shell counts it",
        outcome.returned == 137,
        outcome,
        "exit_status() of stage 0 makes one number of what waitpid gives",
    )


@pytest.mark.task("2.4")
def test_what_is_sent_to_the_container_reaches_the_program(machine):
    walls = [machine.made("stage02_pid_namespace.Pids"), machine.made("stage02_pid_namespace.Init")]
    kinds = [
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGQUIT),
        (signal.SIGUSR1, signal.SIGUSR2),
        (signal.SIGALRM, signal.SIGWINCH),
    ]
    for number in map(machine.random.choice, machine.random.sample(kinds, len(kinds))):
        status = machine.random.randint(2, 120)
        name = number.name.removeprefix("SIG")
        machine.did(
            f"launched a program that exits with {status} on SIG{name}, and sent SIG{name} to PID 1 of the container"
        )
        machine.call(
            "stage00_process.launch",
            machine.scripted(f"trap 'exit {status}' {name}", "while :; do sleep 0.02; done"),
            walls,
        )
        program = machine.meet().process
        init = facts.Process(program.parent())
        machine.settles(lambda: not init.status()["State"].startswith("S"))  # noqa: B023 (until it waits for something)
        machine.send(init.pid, number)
        outcome = _outcome_of_a_signal(machine, init.pid, program)
        if outcome:
            yours, maybe = (
                str(outcome),
                "the very signal that came is sent on, and the program's own status is returned",
            )
        elif program.ended():
            yours = "the program got it and ended, and init goes on"
            maybe = "init sleeps on: SIGCHLD must be blocked and asked for as well, and lead back to reap()"
        else:
            yours = "the program never heard of it"
            maybe = (
                "the kernel drops what is sent to a PID 1 that neither blocks it nor has a handler for it; and what is "
                "blocked has to be asked for: all of FORWARDED"
            )
        returned = outcome is not None and outcome.returned == status
        machine.expect(f"the program gets it: launch() returns {status}", returned, yours, maybe)
    machine.did(
        "launched a program that does nothing about SIGTERM, and sent it to PID 1 in the moment that had forked"
    )
    program = machine.scripted("", "while :; do sleep 0.02; done")
    machine.call("stage00_process.launch", program, [walls[0], machine.beacon("fork", forks=True), walls[1]])
    while (step := machine.step(or_hello=True)) and step.hook != "forked":
        pass
    init = step.pid if step else machine.meet().process.parent()  # where it says hello first, that moment lasts still
    machine.send(init, signal.SIGTERM)
    outcome = _outcome_of_a_signal(machine, init)
    machine.expect(
        "launch() returns 143, as a shell counts it",
        outcome is not None and outcome.returned == 143,
        outcome or "the program never heard of it",
        "what comes before PID 1 is ready for it is lost, unless it is blocked: block them all before the fork",
    )


@pytest.mark.task("2.5")
def test_nothing_of_the_container_survives_its_end(machine):
    walls = [machine.made("stage02_pid_namespace.Pids"), machine.made("stage02_pid_namespace.Init")]
    leave = "(trap '' TERM HUP INT; exec sleep 1000) & (setsid sleep 1000 &)"
    machine.did("had the program leave two processes behind, deaf to signals and in a session of their own, and end")
    machine.call("stage00_process.launch", machine.probe(), walls)
    probe = machine.meet()
    probe.ask(f"{leave}; echo left")
    probe.tell("exit 0")
    machine.outcome()
    left = machine.left()
    machine.expect("nothing of the container is left", not left, f"{len(left)} processes are left")

    machine.did("killed PID 1 from outside")
    machine.call("stage00_process.launch", machine.probe(), walls)
    probe = machine.meet()
    probe.ask(f"{leave}; echo left")
    machine.send(probe.process.parent(), signal.SIGKILL)
    outcome = machine.outcome()
    machine.expect("launch() returns 137", outcome.returned == 137, outcome)
    left = machine.left()
    machine.expect("nothing of the container is left, and no zombie", not left, f"{len(left)} processes are left")

    machine.did("killed the launcher itself with SIGKILL")
    machine.call("stage00_process.launch", machine.probe(), walls, apart=True)
    probe = machine.meet()
    probe.ask(f"trap '' TERM HUP INT; {leave}; echo left")
    init = facts.Process(probe.process.parent())
    machine.send(init.parent(), signal.SIGKILL)
    ended = init.ended(2)  # before that a look at all processes may miss those that change parents just then
    left = machine.settles(machine.left, 2 if ended else 0)
    machine.expect(
        "nothing of the container is left",
        ended and not left,
        f"{len(left)} processes are left",
        "only the kernel can still act then: PR_SET_PDEATHSIG, set by PID 1 for itself, to what no process can ignore",
    )


@pytest.mark.task("2.6")
def test_a_jail_lets_its_uid_0_kill_and_a_pid_namespace_does_not(machine):
    machine.did("put up the reference's chroot; once it stood, loaded your file behind it and called kill_outside()")
    word = machine.word()
    bystander = machine.start(["sh", "-c", "read never", f"{word}{machine.word()}"])
    victim = machine.start(["sh", "-c", "read never", word])
    walls = [
        machine.made("reference.stage01_chroot.Root", machine.rootfs),
        machine.beacon("stands"),
        machine.intruder("stage02_pid_namespace.kill_outside", word),
    ]
    machine.call("reference.stage00_process.launch", machine.program(["true"]), walls)
    outcome = machine.outcome()
    dead = victim.ended(2)
    machine.expect(
        "a process outside, known by one argument, is killed",
        dead,
        "it is" if dead else f"it lives; as for launch(), {outcome}",
        "mount a proc: it shows every process of its PID namespace. One of its arguments is the word, all of it",
    )
    dead = bystander.ended(0.1)
    machine.expect(
        "another process outside, which has not that argument, lives", not dead, "it was killed" if dead else "it does"
    )
    machine.expect("kill_outside() returns", outcome.returned == 0, outcome, "its work is done: it looks no further")
    machine.call(
        "reference.stage00_process.launch",
        machine.program(["true"]),
        [*walls[:2], machine.intruder("stage02_pid_namespace.kill_outside", machine.word())],
    )
    outcome = machine.outcome()
    machine.expect(
        "for a word that no process has it raises ProcessLookupError", outcome.raised == "ProcessLookupError", outcome
    )

    machine.did("tried the reference's kill_outside() against the same jail with your Pids() and Init() around it")
    word = machine.word()
    victim = machine.start(["sh", "-c", "read never", word])
    walls[1:] = [
        machine.made("stage02_pid_namespace.Pids"),
        machine.intruder("reference.stage02_pid_namespace.kill_outside", word),
        machine.made("stage02_pid_namespace.Init"),
    ]
    machine.call("reference.stage00_process.launch", machine.program(["true"]), walls)
    outcome = machine.outcome()
    dead = victim.ended(0.2)
    machine.expect(
        "the process outside lives, for it cannot be seen",
        not dead and outcome.raised == "ProcessLookupError",
        "it was killed" if dead else f"it lives; as for launch(), {outcome}",
    )


def _outcome_of_a_signal(machine, init, program=None):
    """How the call ended after a signal to PID 1; None: it goes on.

    An init with handlers is right too, and Python calls them between two of its instructions: a signal in the moment
    before it sleeps in waitpid is handled when the next one wakes it. (One that was lost stays lost.) Once the program
    has ended there is nothing to wait for but the end.
    """
    outcome = machine.patient_outcome(0.5)
    if outcome is None:
        if program is None or not program.ended():
            machine.send(init, signal.SIGCONT)
        outcome = machine.patient_outcome(2.0)
    return outcome
