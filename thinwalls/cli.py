"""The command line: what was asked is understood here, and done elsewhere.

Exit status: 0 all asked for passed; 1 something failed; 2 wrong usage; 3 this machine cannot do it.
What loads slowly (pytest, rich) is imported by the commands that need it.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from thinwalls import course, progress, report

if TYPE_CHECKING:
    from thinwalls.grading import result

Tasks = list[tuple[course.Stage, course.Task]]

PASSED, FAILED, USAGE, UNABLE, INTERRUPTED = 0, 1, 2, 3, 130
_STOPPED = "\nwalls: stopped, and nothing of it is left running"

_COMMANDS = """\
./walls                      the walls built so far, and the next task
./walls start                open JupyterLab at the next notebook (--no-browser: only say where)
./walls check [STAGE|TASK]   grade your stages; with --watch: again at each save
./walls hint TASK            a hint; called again, a plainer one
./walls solution STAGE       the reference solution of a stage, once you have passed it
./walls reset STAGE          begin a stage anew, your file kept beside it
./walls run IMAGE [CMD]      a program behind the walls that are built (or ROOTFS, a directory)
./walls pull IMAGE           fetch an image from a registry
./walls forget               remove all images that were pulled
./walls xray [PID [PID2]]    the walls of any process on this machine
./walls bench [start|pull|grade|class|limits|all]   how fast it is, beside others found on this machine
./walls bench vm             processes, containers and virtual machines: every claim measured
./walls doctor               what this machine can do for the course
./walls grade SUBMISSION...  a class, each submission by itself, into a folder: --out DIR
./walls test                 prove the course itself on this machine

STAGE is a number (1), a name (chroot) or a file; TASK a number such as 1.2.
./walls COMMAND --help tells a command's options.
"""


class Refused(Exception):
    """Nothing was done, for a reason that is a sentence, with this exit status."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for, and give the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a sign is no reason to fail
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except (Refused, course.Unknown) as refusal:
        sys.stdout.flush()
        for line in report.wrapped(f"walls: {' '.join(report.printable(str(refusal.args[0])))}").split("\n"):
            print(line, file=sys.stderr)
        return refusal.status if isinstance(refusal, Refused) else USAGE
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as head(1) does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints as sentences."""

    def error(self, message: str) -> NoReturn:
        raise Refused(USAGE, f"{message}; see {self.prog} --help")


def _dispatch(argv: list[str]) -> int:
    if not argv:
        return _progress()
    command, rest = argv[0], argv[1:]
    if command in ("-h", "--help", "help"):
        print(_COMMANDS, end="")
        return PASSED
    if command not in _PARTS:
        raise Refused(USAGE, f"there is no command {command!r}; there are {', '.join(_PARTS)} (./walls --help)")
    return _PARTS[command][0](parser(command).parse_args(rest))


def parser(command: str) -> argparse.ArgumentParser:
    """What understands the words after a command."""
    do, options = _PARTS[command]
    made = _Parser(prog=f"./walls {command}", allow_abbrev=False, description=do.__doc__)
    if callable(options):
        options(made)
    else:
        for name, option in options.items():
            made.add_argument(name, **option)
    return made


def _progress() -> int:
    known = progress.load()
    _tell(known)
    print("Thin Walls: a container, one wall at a time\n")
    print(report.progress(known))
    print(f"\n{report.next_step(known)}")
    return PASSED


def _tell(known: progress.Progress) -> None:
    """Say what is wrong with the progress file, if anything is."""
    if known.notice:
        print(report.wrapped(f"walls: {known.notice}"), file=sys.stderr)


# start


def _start(args: argparse.Namespace) -> int:
    """Show the progress and what this machine can do, and open JupyterLab at the next notebook."""
    import importlib.util

    if args.vm:
        from thinwalls import vm

        try:
            return vm.main(args.command)
        except vm.Missing as lack:
            raise Refused(UNABLE, f"no virtual machine can be started. {lack}") from None
    if args.command:
        raise Refused(USAGE, "./walls start takes a command with --vm alone")
    _progress()
    if importlib.util.find_spec("jupyterlab") is None:
        raise Refused(UNABLE, "JupyterLab is not installed here; call the course as ./walls, which installs it")
    from thinwalls import doctor, lab

    found = progress.load().next_task()
    path = lab.address(found[0] if found else None)
    if there := lab.running():
        print(
            f"\nJupyterLab is open already (process {there.pid}); Ctrl-C, twice, where it was started ends it. It is at"
        )
        print(f"  {there.address(path)}")
        return PASSED
    rows = doctor.examine()
    print()
    if doctor.able(rows):
        print("This machine can do all that the course needs (./walls doctor tells more).")
    else:
        missing = [row for row in rows if row.state == doctor.MISSING and row.stages]
        print("This machine cannot do all that the course needs (./walls doctor tells more):")
        for row in missing:
            print(report.wrapped(f"{row.name}: {row.found} {row.mend}", 2))
    port = lab.free_port()
    how = lab.no_browser(port) or ("Open the http address below in a browser." if args.no_browser else "")
    print(f"\nJupyterLab starts; Ctrl-C, twice, ends it.\n{how or 'If no browser opens, open its http address:'}")
    lab.trust()
    command = lab.command(path, port, browser=not how)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, lab.environment())


# doctor


def _doctor(args: argparse.Namespace) -> int:
    """Try what this machine can do, say which stages need it, and how to mend what is missing."""
    from thinwalls import doctor

    rows = doctor.examine()
    print(doctor.as_json(rows) if args.json else doctor.as_text(rows))
    return PASSED if doctor.able(rows) else UNABLE


# check


def _check(args: argparse.Namespace) -> int:
    """Grade stages or tasks, each in a throwaway host, and say what failed and why."""
    impl, folder = _implementation(args.impl)
    target = _json_file(args.json)
    if args.watch and target:
        raise Refused(USAGE, "--watch and --json do not go together: a watcher has no end to write a result at")
    tasks, chosen = _asked_for(args.words, impl, folder)
    if chosen:
        print(f"{chosen}\n", flush=True)
    from thinwalls.host import HostError

    try:
        with _stopping_at_once():
            if args.watch:
                from thinwalls import watch

                return watch.Watch(tasks, impl, folder, args.seed, args.all_mine).run()
            found = _grade(tasks, impl, folder, args)
    except HostError as error:
        from thinwalls import doctor

        why = doctor.why_no_host(str(error))
        raise Refused(UNABLE, f"nothing can be graded on this machine. {why} (./walls doctor)") from None
    if impl == "stages":
        verdicts = [found.verdict(task) for _, task in tasks]
        statuses = {verdict.id: verdict.status for verdict in verdicts}
        known = progress.record(statuses, folder, progress.spared_by(verdicts, args.all_mine))
        _tell(known)
        if found.passed():
            print(f"\n{report.next_step(known, tasks[-1][0])}")
    if target:
        try:
            found.write(target)
        except OSError as error:
            raise Refused(UNABLE, f"the result could not be written to {target}: {error.strerror}") from None
    if found.passed():
        return PASSED
    return UNABLE if set(found.counts()) <= {"passed", "not_gradable"} else FAILED


@contextlib.contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Let Ctrl-C end this process there and then, instead of as an exception in the midst of pytest and its hooks.

    Nothing is left to tidy up: that this process is gone is what the keeper waits for.
    """
    errors = os.dup(2)  # while a test runs, 2 itself is pytest's

    def stop(*_: object) -> NoReturn:
        os.write(errors, f"{_STOPPED}\n".encode())
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(errors)


def _grade(tasks: Tasks, impl: str, folder: Path, args: argparse.Namespace) -> "result.Result":
    """Grade, and show each verdict when it is known, and the total."""
    import random
    import shlex

    from thinwalls.grading import driver
    from thinwalls.host import Host, Keeper

    seed = random.SystemRandom().getrandbits(32) if args.seed is None else args.seed
    screen = report.console(sys.stdout)  # as it is now: pytest's own output goes elsewhere
    told: dict[str, str] = {}  # task -> its stage

    def tell(verdict: "result.Verdict") -> None:
        stage, task = course.task(verdict.id)
        lines = report.verdict(task, verdict)
        if stage.id not in told.values():
            gap = "\n" if told else ""
            screen.print(f"{gap}Stage {int(stage.id)}, {stage.title}: {_shown(folder / f'{stage.stem}.py')}")
        told[task.id] = stage.id
        screen.print(lines, end="\n\n" if "\n" in lines else "\n")

    with Keeper() as keeper:
        with Host(keeper) as host:  # once, ahead of all tasks: what cannot work is then said once
            assert host.runner
        place, at_once = impl if impl in _OURS else str(folder), driver.several()
        found = driver.grade(tasks, place, seed, args.all_mine, keeper, tell, at_once=at_once)
    for _, task in tasks:
        if task.id not in told:  # the suite has said nothing about it
            tell(found.verdict(task))
    last = found.verdict(tasks[-1][1])
    print(("\n" if last.status == "passed" else "") + report.summary(found))
    if any(status not in ("passed", "not_gradable") for status in found.counts()):
        options = ["--impl", args.impl] if args.impl != "stages" else []
        again = shlex.join(["./walls", "check", *args.words, *options, "--seed", str(seed)])
        print(f"These challenges again: {''.join(report.printable(again))}")
    return found


_OURS = ("stages", "solutions")


def _implementation(word: str) -> tuple[str, Path]:
    """What --impl means: its name in a result, and the folder of its stage files."""
    folder = course.ROOT / word if word in _OURS else Path(word)
    if not folder.is_dir():
        what = "is no folder" if os.path.lexists(folder) else "does not exist"
        raise Refused(USAGE, f"--impl {word!r} {what}; it takes stages, solutions, or a folder of stage files")
    for name in _OURS:
        if folder.resolve() == (course.ROOT / name).resolve():
            return name, course.ROOT / name
    if not any((folder / f"{stage.stem}.py").is_file() for stage in course.stages()):
        names = ", ".join(f"{stage.stem}.py" for stage in course.stages())
        raise Refused(USAGE, f"--impl {word!r} holds no stage file ({names})")
    return word, folder.absolute()


def _json_file(word: str | None) -> Path | None:
    """Where --json writes to. Refused before anything is graded, if it cannot."""
    import tempfile

    if word is None:
        return None
    path = Path(word).resolve()
    if not path.parent.is_dir():
        raise Refused(USAGE, f"--json {word!r}: there is no folder {path.parent}")
    # The file is replaced whole, by a rename: that must never happen to a device, or to /dev/stdout.
    if (path.exists() and not path.is_file()) or Path(word).absolute().parts[1:2] in (("dev",), ("proc",)):
        raise Refused(USAGE, f"--json {word!r} is no regular file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise Refused(USAGE, f"--json {word!r}: {path.parent} cannot be written to: {error.strerror}") from None


def _asked_for(words: Sequence[str], impl: str, folder: Path) -> tuple[Tasks, str]:
    """The tasks to grade, in the manifest's order, and a sentence on the choice where it was ours."""
    everything = [(stage, task) for stage in course.stages() for task in stage.tasks]
    if words:
        wanted: set[str] = set()
        for word in words:
            if "." in word and "/" not in word and not word.endswith((".py", ".ipynb")):
                wanted.add(course.task(word)[1].id)
            else:
                wanted.update(task.id for task in course.stage(word).tasks)
        return [pair for pair in everything if pair[1].id in wanted], ""
    if impl != "stages":
        present = [stage for stage in course.stages() if (folder / f"{stage.stem}.py").exists()]
        return [pair for pair in everything if pair[0] in present], ""
    begun = [stage for stage in course.stages() if _begun(stage, folder)]
    chosen = begun or [course.stages()[0]]
    rest = [str(int(stage.id)) for stage in course.stages() if stage not in chosen]
    if not begun:
        sentence = "No stage is begun yet, so this is the first."
    elif rest:
        numbers = " and ".join(str(int(stage.id)) for stage in begun)
        sentence = f"What you have begun: stage {numbers}. The others: ./walls check {' '.join(rest)}"
    else:
        sentence = ""
    return [pair for pair in everything if pair[0] in chosen], sentence


def _begun(stage: course.Stage, folder: Path) -> bool:
    """Whether the learner's file is another than the stub."""
    path = folder / f"{stage.stem}.py"
    try:
        return path.is_file() and path.read_bytes() != course.stub(course.reference(stage)).encode()
    except OSError:
        return True  # there is something, and check will say what is wrong with it


def _shown(path: Path) -> str:
    """A path as the person at the terminal would write it, made harmless."""
    there = os.path.relpath(path)
    return "".join(report.printable(there if len(there) < len(str(path)) else str(path)))


# hint, solution, reset


def _hint(args: argparse.Namespace) -> int:
    """Show the next tier of a task's hint: where to look, then the idea, then nearly the lines."""
    if args.task is None:
        found = progress.load().next_task()
        more = f" The next open one is {found[1].id}: ./walls hint {found[1].id}" if found else ""
        raise Refused(USAGE, f"a hint for which task?{more}")
    with contextlib.suppress(course.Unknown):
        stage = course.stage(args.task)
        raise Refused(
            USAGE, f"a hint is for a task; stage {int(stage.id)} has {', '.join(task.id for task in stage.tasks)}"
        )
    _, task = course.task(args.task)
    tier, again, known = progress.show_hint(task)
    _tell(known)
    print(report.hint(task, tier, again, known))
    return PASSED


def _solution(args: argparse.Namespace) -> int:
    """Print the reference solution of a stage, after the stage has passed."""
    stage = course.stage(args.stage)
    known = progress.load()
    _tell(known)
    if not args.spoil and not known.ever_passed(stage):
        left = len([task for task in stage.tasks if known.tasks.get(task.id, progress.Entry()).best != progress.PASSED])
        number = int(stage.id)
        raise Refused(
            FAILED,
            f"{left} of {len(stage.tasks)} tasks of stage {number} are still to be passed (./walls check {number}); "
            f"whoever wants to see the solution now: ./walls solution {number} --spoil",
        )
    print(course.reference(stage), end="")
    return PASSED


def _reset(args: argparse.Namespace) -> int:
    """Put the stub of a stage back; the file that was there is kept beside it."""
    import tempfile

    stage = course.stage(args.stage)
    path = course.ROOT / "stages" / f"{stage.stem}.py"
    stub = course.stub(course.reference(stage))
    try:
        if path.is_file() and path.read_bytes() == stub.encode():
            print(f"{_shown(path)} is the stub already; nothing to do.")
            return PASSED
        handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(stub)
            os.chmod(fresh, 0o644)
            kept = _keep(path)
            os.replace(fresh, path)
        except BaseException:
            os.unlink(fresh)
            raise
    except OSError as error:
        raise Refused(UNABLE, f"{_shown(path)} cannot be reset: {error.strerror}; it is as it was") from None
    _tell(progress.forget(stage))
    print(f"{_shown(path)} is the stub again." + (f" Your file is {_shown(kept)}." if kept else ""))
    return PASSED


def _keep(path: Path) -> Path | None:
    """Give the file a second name that is free, NAME.1, NAME.2 ...; none if there is no file."""
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.{number}")
        try:
            os.link(path, kept, follow_symlinks=False)  # fails if the name is taken, whoever took it meanwhile
            return kept
        except FileExistsError:
            number += 1
        except FileNotFoundError:
            return None


# test


def _test(args: argparse.Namespace) -> int:
    """Prove the course on this machine: solutions pass, stubs fail on their own task, nothing is left behind."""
    from thinwalls import prove

    return prove.main(args.full, args.trust, args.write)


_STAGE: dict[str, Any] = {"metavar": "STAGE"}
_FLAG: dict[str, Any] = {"action": "store_true"}
# run, xray, bench


def _run(args: argparse.Namespace) -> int:
    """Run a program in a root file system, behind the walls of all stages that are built."""
    from thinwalls import run

    return run.main(args)


def _pull(args: argparse.Namespace) -> int:
    """Fetch an image from a registry, with stage 6 of an implementation, and keep what its digests prove."""
    from thinwalls import imagestore, pulling, run
    from thinwalls.host import HostError, Keeper

    try:
        with Keeper() as keeper:
            files, _ = run.implementation(args.impl)
            print(pulling.pull(args.image, files, keeper, pulling.login(args.user)))
            return PASSED
    except imagestore.Unusable as error:
        raise Refused(FAILED, str(error)) from None
    except HostError as error:
        raise Refused(UNABLE, str(error)) from None


def _forget(_args: argparse.Namespace) -> int:
    """Remove all images that were pulled, and what was unpacked of them; they can be pulled again."""
    from thinwalls import imagestore
    from thinwalls.host import HostError, Keeper

    try:
        with Keeper() as keeper:
            imagestore.forget(keeper)
            return PASSED
    except imagestore.Unusable as error:
        raise Refused(FAILED, str(error)) from None
    except HostError as error:
        raise Refused(UNABLE, str(error)) from None


def _pull_options(options: argparse.ArgumentParser) -> None:
    from thinwalls import pulling

    pulling.add_arguments(options)


def _run_options(options: argparse.ArgumentParser) -> None:
    from thinwalls import run

    run.add_arguments(options)


def _xray(args: argparse.Namespace) -> int:
    """Show which walls a process has of its own, beside another process or this machine's first."""
    from thinwalls import xray

    return xray.main(args.pid, args.pid2, args.json, args.svg)


def _grade_class(args: argparse.Namespace) -> int:
    """Grade a class: each submission in throwaway hosts of its own, into a store, a report, and files for others."""
    from thinwalls.batch import command

    try:
        return command.main(args)
    except command.Refused as refusal:
        raise Refused(USAGE if refusal.usage else UNABLE, str(refusal)) from None


def _grade_options(options: argparse.ArgumentParser) -> None:
    from thinwalls.batch import command

    command.add_arguments(options)


def _bench(args: argparse.Namespace) -> int:
    """Measure this runtime beside the others that this machine has, in one run: read the ratios."""
    from thinwalls.bench import command

    if args.what == "vm":
        from thinwalls.measure import figures

        if args.samples is not None or args.image or args.docs:
            raise Refused(USAGE, "./walls bench vm takes --json alone: all of it is one run, of a size that is fixed")
        return figures.main(_json_file(args.json))
    if args.samples is not None and args.samples < 1:
        raise Refused(USAGE, f"--samples {args.samples}: at least 1 is needed")
    if args.image and args.what not in ("pull", "all"):
        raise Refused(USAGE, "--image is for what is pulled: ./walls bench pull")
    image = Path(args.image) if args.image else None
    return command.main(args.what, _json_file(args.json), args.samples, args.docs, image)


_Options = dict[str, dict[str, Any]] | Callable[[argparse.ArgumentParser], None]
_PARTS: dict[str, tuple[Callable[[argparse.Namespace], int], _Options]] = {
    "start": (
        _start,
        {
            "--no-browser": {**_FLAG, "help": "print the address instead of opening a browser"},
            "--vm": {**_FLAG, "help": "a shell in a throwaway copy of this Linux instead, by virtme-ng"},
            "command": {
                "nargs": argparse.REMAINDER,
                "metavar": "COMMAND",
                "help": "with --vm: run this in it, for example ./walls check 0",
            },
        },
    ),
    "check": (
        _check,
        {
            "words": {
                "nargs": "*",
                "metavar": "STAGE|TASK",
                "help": "what to grade; without: the stages you have begun",
            },
            "--impl": {"default": "stages", "metavar": "stages|solutions|DIR", "help": "whose files; without: yours"},
            "--json": {"metavar": "FILE", "help": "write the result there too"},
            "--watch": {**_FLAG, "help": "grade again at each save; keys: h hint, n next, a all, q quit"},
            "--all-mine": {**_FLAG, "help": "grade a stage on your earlier stages, not on the reference's"},
            "--seed": {"type": int, "help": "repeat the challenges of an earlier run"},
        },
    ),
    "run": (_run, _run_options),
    "pull": (_pull, _pull_options),
    "forget": (_forget, {}),
    "xray": (
        _xray,
        {
            "pid": {"metavar": "PID", "nargs": "?", "help": "without: the shell that called this"},
            "pid2": {"metavar": "PID2", "nargs": "?", "help": "the process to show it beside"},
            "--json": {**_FLAG, "help": "as JSON"},
            "--svg": {"metavar": "FILE", "help": "draw the walls into this file"},
        },
    ),
    "bench": (
        _bench,
        {
            "what": {
                "nargs": "?",
                "default": "start",
                "choices": ["start", "pull", "grade", "class", "limits", "all", "vm"],
                "help": "starting, pulling, grading, a whole class, what limits spare a neighbour; all of these; or vm",
            },
            "--samples": {"type": int, "metavar": "N", "help": "how often each; without: as often as usual"},
            "--image": {
                "metavar": "FILE",
                "help": "a tar archive to pull; without: a Debian image, made by mmdebstrap",
            },
            "--docs": {**_FLAG, "help": "keep the samples in docs/measured, and write docs/measured.md anew"},
            "--json": {"metavar": "FILE", "help": "write the samples there too"},
        },
    ),
    "grade": (_grade_class, _grade_options),
    "hint": (_hint, {"task": {"metavar": "TASK", "nargs": "?", "help": "such as 1.2"}}),
    "solution": (_solution, {"stage": _STAGE, "--spoil": {**_FLAG, "help": "also before the stage has passed"}}),
    "reset": (_reset, {"stage": _STAGE}),
    "doctor": (_doctor, {"--json": {**_FLAG, "help": "for a program to read"}}),
    "test": (
        _test,
        {
            "--full": {**_FLAG, "help": "everything, as the course's own CI runs it"},
            "--trust": {**_FLAG, "help": "the graders tried on wrong, right and cheating implementations"},
            "--write": {**_FLAG, "help": "with --trust: put its table into docs/trust.md"},
        },
    ),
}

if __name__ == "__main__":
    sys.exit(main())
