"""What the learner has achieved so far: .thinwalls/progress.json in the checkout, one entry a task.

Several commands may run at once. Each takes the lock, reads what the file says now, changes its own entries and
replaces the file whole; so none is lost and none is half written. A damaged file is kept beside a fresh one.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinwalls import course

if TYPE_CHECKING:
    from thinwalls.grading.result import Verdict

SCHEMA = "thinwalls/progress/v1"
PASSED = "passed"
_LIMIT = 1 << 20  # bytes; what is larger was not written by us
_PATIENCE = 2.0  # seconds to wait for the lock, which is never held for longer than a write takes


@dataclass
class Entry:
    """What is known of one task."""

    best: str = ""  # the best status it ever had
    last: str = ""  # its status when it was last graded; empty after a reset
    source: str = ""  # the SHA-256 of the stage's file when it last passed
    hints: int = 0  # how many tiers of its hint were shown


@dataclass
class Progress:
    """All entries by task id, and what a person should be told about the file they came from."""

    tasks: dict[str, Entry] = field(default_factory=dict)
    notice: str = ""

    def entry(self, task: course.Task) -> Entry:
        """The entry of a task, made if there is none."""
        return self.tasks.setdefault(task.id, Entry())

    def stands(self, task: course.Task) -> bool:
        """Whether the task passed when it was last graded."""
        return task.id in self.tasks and self.tasks[task.id].last == PASSED

    def open(self, stage: course.Stage) -> list[course.Task]:
        """The tasks of a stage that do not stand."""
        return [task for task in stage.tasks if not self.stands(task)]

    def ever_passed(self, stage: course.Stage) -> bool:
        """Whether each task of the stage has passed at some time."""
        return all(self.tasks.get(task.id, Entry()).best == PASSED for task in stage.tasks)

    def next_task(self, here: course.Stage | None = None) -> tuple[course.Stage, course.Task] | None:
        """The first task that does not stand, of the stage ``here`` if there is one, otherwise of all; None when all do."""
        stages = [*([here] if here else []), *course.stages()]
        return next(((stage, task) for stage in stages for task in self.open(stage)), None)


def file() -> Path:
    """Where it is kept."""
    return course.ROOT / ".thinwalls" / "progress.json"


def load() -> Progress:
    """Read the progress. Never raises: what cannot be read is told in ``notice``."""
    try:
        return _read()
    except FileNotFoundError:
        return Progress()
    except ValueError:
        return update(lambda progress: None)  # puts the damaged file aside, under the lock
    except OSError as error:
        return Progress(notice=f"your progress cannot be read: {file()}: {error.strerror}")


def update(change: Callable[[Progress], None]) -> Progress:
    """Change the progress and write it; gives the changed one. Never raises: what went wrong is in ``notice``."""
    progress, changed = Progress(), False
    try:
        with _locked():
            try:
                progress = _read()
            except FileNotFoundError:
                pass
            except ValueError as error:
                progress.notice = (
                    f"{file()} was damaged ({error}) and is kept as {_put_aside().name}; progress starts afresh"
                )
            change(progress)
            changed = True
            _write(progress)
    except OSError as error:
        if not changed:
            with contextlib.suppress(OSError, ValueError):
                progress = _read()
            change(progress)
        progress.notice = f"your progress cannot be written: {file()}: {error.strerror}"
    return progress


def record(statuses: Mapping[str, str], folder: Path, spared: Collection[str] = ()) -> Progress:
    """Remember what a grading of the learner's own stages found. statuses: task id -> status.

    spared: the tasks that go on standing if they stand, for what was found says nothing against them: see spared_by().
    """
    import hashlib

    sources: dict[str, str] = {}
    for stage in course.stages():
        if not any(statuses.get(task.id) == PASSED for task in stage.tasks):
            continue
        with contextlib.suppress(OSError):
            sources[stage.id] = hashlib.sha256((folder / f"{stage.stem}.py").read_bytes()).hexdigest()

    def change(progress: Progress) -> None:
        for stage in course.stages():
            for task in stage.tasks:
                status = statuses.get(task.id)
                if status is None or status in ("not_gradable", "infra_error"):  # says nothing about the learner's work
                    continue
                entry = progress.entry(task)
                if status != PASSED and task.id in spared and entry.last == PASSED:
                    continue
                entry.last = status
                if status == PASSED:
                    entry.best, entry.source = PASSED, sources.get(stage.id, "")
                elif entry.best != PASSED:
                    entry.best = status

    return update(change)


def spared_by(verdicts: "Iterable[Verdict]", all_mine: bool) -> set[str]:
    """Tasks from which a grading takes nothing away: their file does not load (yet), or they stood on other stages
    than usual, the learner's own (check --all-mine), where a mistake may be one of those."""
    return {verdict.id for verdict in verdicts if all_mine or verdict.broken}


def show_hint(task: course.Task) -> tuple[int, bool, Progress]:
    """Move on to the next tier of a task's hint: its number from 0, whether all had been shown before, the progress."""
    before = 0

    def change(progress: Progress) -> None:
        nonlocal before
        entry = progress.entry(task)
        before = min(entry.hints, len(task.hints))
        entry.hints = min(before + 1, len(task.hints))

    progress = update(change)
    return min(before, len(task.hints) - 1), before == len(task.hints), progress


def forget(stage: course.Stage) -> Progress:
    """After a reset nothing of a stage stands; what passed once, and the hints shown, stay known."""

    def change(progress: Progress) -> None:
        for task in stage.tasks:
            if task.id in progress.tasks:
                progress.tasks[task.id].last = ""

    return update(change)


def _read() -> Progress:
    """Raises FileNotFoundError, other OSErrors, and ValueError for what is no progress file."""
    try:
        with file().open("rb") as source:
            data = source.read(_LIMIT + 1)
    except (IsADirectoryError, NotADirectoryError):
        raise ValueError("not a file") from None
    if len(data) > _LIMIT:
        raise ValueError("too large")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(body, dict) or body.get("schema") != SCHEMA or not isinstance(body.get("tasks"), dict):
        raise ValueError(f"not {SCHEMA}")
    return Progress({name: _entry(table) for name, table in body["tasks"].items()})


def _entry(table: Any) -> Entry:
    types = {"best": str, "last": str, "source": str, "hints": int}
    if not isinstance(table, dict) or any(type(table.get(name)) is not kind for name, kind in types.items()):
        raise ValueError("an entry is malformed")
    return Entry(table["best"], table["last"], table["source"], max(0, table["hints"]))


def _write(progress: Progress) -> None:
    body = {"schema": SCHEMA, "tasks": {name: asdict(entry) for name, entry in sorted(progress.tasks.items())}}
    temporary = file().with_name(f".progress.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, file())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _put_aside() -> Path:
    """Rename the damaged file to the first of progress.json.bad, .bad.1, .bad.2 ... that is free."""
    number = 0
    while True:
        aside = file().with_name("progress.json.bad" + (f".{number}" if number else ""))
        if not os.path.lexists(aside):
            os.rename(file(), aside)
            return aside
        number += 1


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of the progress; where there are no locks (some network file systems), go without."""
    folder = file().parent
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    with (folder / "lock").open("a") as lock:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:
                break
        yield
