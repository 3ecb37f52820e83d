"""How a class's grading is shown while it goes on: a live table in a terminal, elsewhere a line for each submission."""

import sys
import time
from typing import Any

from rich.live import Live
from rich.text import Text

from thinwalls import report
from thinwalls.batch.one import Grading

_PAUSE = 0.2  # seconds between two pictures
_NAMES = 3  # of those that failed, the last ones


def clean(text: str) -> str:
    """A text of a submission, on one line, with nothing in it that a terminal would obey."""
    return " ".join(report.printable(text))


class Display:
    """A context manager. total: how many submissions are to be graded now, kept: how many need not be."""

    def __init__(self, total: int, kept: int):
        self._total, self._kept = total, kept
        self._done = 0
        self._running: dict[str, str] = {}
        self._broken: list[str] = []
        self._began = self._shown = time.monotonic()
        self._screen = report.console(sys.stdout)
        self._live = (
            Live(console=self._screen, auto_refresh=False, transient=True) if self._screen.is_terminal else None
        )

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def started(self, submission: str) -> None:
        """Work on it begins."""
        self._running[submission] = ""

    def heard(self, grading: Grading) -> None:
        """Another task has a verdict."""
        again = f", attempt {grading.attempts}" if grading.attempts > 1 else ""
        self._running[grading.submission.id] = f"{len(grading.verdicts)} of {len(grading.tasks)} tasks{again}"

    def finished(self, grading: Grading, result: dict[str, Any]) -> None:
        """There is a result."""
        name = grading.submission.id
        self._running.pop(name, None)
        self._done += 1
        why = grading.content.problem or trouble(result)
        line = f"{clean(name)}: {why and clean(why) or points(result)} ({grading.seconds:.1f} s)"
        if why:
            self._broken.append(line)
        if not self._live:
            print(f"{self._done} of {self._total}  {line}", flush=True)

    def tick(self) -> None:
        """Time has passed."""
        if self._live and time.monotonic() - self._shown > _PAUSE:
            self._shown = time.monotonic()
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Text:
        left = self._total - self._done
        words = f"{self._done} done, {len(self._running)} running, {len(self._broken)} failed, {left} to go"
        if self._kept:
            words += f", {self._kept} as they were"
        if self._done and left:
            seconds = (time.monotonic() - self._began) / self._done * left
            words += f"; about {seconds // 60:.0f} min {seconds % 60:.0f} s left"
        text = Text(words, no_wrap=True, overflow="ellipsis")
        for name, state in self._running.items():
            text.append(f"\n  {clean(name)}  ", "bold")
            text.append(state or "begins", "dim")
        for line in self._broken[-_NAMES:]:
            text.append(f"\n  {line}", "red")
        return text


def points(result: dict[str, Any]) -> str:
    """The score of a result."""
    return f"{result['score']} of {result['max_score']} points"


def trouble(result: dict[str, Any]) -> str:
    """Which tasks were not graded, for reasons that are not the learner's; "": none."""
    broken = [task for stage in result["stages"] for task in stage["tasks"] if task["status"] == "infra_error"]
    return f"{', '.join(task['id'] for task in broken)} not graded: {broken[0]['message']}" if broken else ""
