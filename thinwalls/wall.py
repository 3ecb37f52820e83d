"""The seam of the course: what a launcher is given, a program to run and the walls to put around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Program:
    """What is to run, and exactly what it is given: nothing else of the caller's reaches it.

    argv: the command and its arguments; ``argv[0]`` without a slash is looked up in PATH of ``env``.
    env: its whole environment.
    cwd: the directory it starts in, a path as the program sees it (inside all walls); None: leave it as it is.
    stdin, stdout, stderr: the caller's descriptors that become the program's 0, 1 and 2.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


class Wall:
    """One wall around a program. A launcher calls the hooks of all walls in the order in which they are given."""

    flags = 0  # CLONE_NEW*: the namespaces the child must be born into

    def outside(self, pid: int) -> None:
        """On the launcher's side: the child ``pid`` exists and waits. Raises what makes the start impossible."""

    def inside(self) -> None:
        """On the child's side, after every ``outside`` and before exec. Import nothing here: its root may be foreign."""

    def close(self) -> None:
        """On the launcher's side, after the end and after a failed start: give back whatever ``outside`` took."""
