"""The store of a class: DIR/results, a file for each submission, whatever happened to it.

A file is there whole or not at all, so that a grading can be ended at any moment, and the next goes on from what it
left. Each holds a key: as long as nothing that matters to the verdicts has changed, it stays the same.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwalls import course, whole
from thinwalls.batch import escape
from thinwalls.grading.result import SCHEMA

WORK = ".work-"  # how folders of files in the making begin
_LARGEST = 4 * 2**20  # bytes of a result


class InUse(Exception):
    """Another grading writes to this store at this moment."""


class Store:
    """The results of a class; a context manager, for which no two are open at a time. Raises OSError and InUse."""

    def __init__(self, out: Path):
        self.folder = out / "results"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InUse(f"another grading is at work on {str(out)!r}") from None
        for left in self.folder.glob(".*.json.*"):  # by one that was killed while it wrote
            left.unlink()
        for left in self.folder.glob(f"{WORK}*"):
            shutil.rmtree(left)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def path(self, submission: str) -> Path:
        """Where the result of a submission is."""
        return self.folder / f"{escape.file_name(submission)}.json"

    def read(self, submission: str) -> dict[str, Any] | None:
        """What was found; None: nothing yet, or what is there is not what was written for this submission."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self.path(submission).open("rb") as file:
                found = json.loads(file.read(_LARGEST))
            if (
                isinstance(found, dict)
                and found.get("schema") == SCHEMA
                and found.get("digest") == _digest(found)
                and found.get("submission") == submission
            ):
                return found
        return None

    def write(self, submission: str, found: dict[str, Any]) -> None:
        """Keep a result, with a digest by which it is known again. Raises OSError."""
        whole.write(self.path(submission), json.dumps(found | {"digest": _digest(found)}, indent=1) + "\n")

    def others(self, submissions: Sequence[str]) -> int:
        """How many results there are besides those of these submissions."""
        known = {self.path(each).name for each in submissions}
        return len([each for each in self.folder.glob("*.json") if each.name not in known])


def _digest(found: dict[str, Any]) -> str:
    """Of all that was written. A file that somebody has edited is no result, whatever shape it has now."""
    rest = {name: value for name, value in found.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def suite() -> str:
    """A digest of all that makes a verdict: manifest, graded tests, reference, and the toolkit but for this package."""
    hashed = hashlib.sha256()
    files = [course.ROOT / "course.toml"]
    for folder in ("tests/stages", "solutions", "thinwalls"):
        files += sorted((course.ROOT / folder).rglob("*.py"))
    for path in files:
        name = path.relative_to(course.ROOT)
        if name.parts[:2] != ("thinwalls", "batch"):
            hashed.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return hashed.hexdigest()


def key(content: str, made_by: str, machine: dict[str, Any], tasks: Sequence[str]) -> str:
    """What stays the same as long as a submission need not be graded again.

    content: the digest of the submission; made_by: of the suite; machine: its facts; tasks: those that count.
    """
    facts = json.dumps(machine, sort_keys=True)
    return hashlib.sha256("\n".join([content, made_by, facts, *tasks]).encode()).hexdigest()
