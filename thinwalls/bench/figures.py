"""What a measurement gives: tables of samples, what is aimed at, and who was not there; as text, Markdown and JSON."""

import datetime
import json
import os
import platform
import re
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_UNITS = {"ms": (1000, "{:.1f} ms"), "s": (1, "{:.2f} s"), "MB": (1e-6, "{:.0f} MB"), "a second": (1, "{:,.0f}")}


class Malformed(ValueError):
    """A file is not what write() has written; the text says what is wrong."""


class Unmeasurable(Exception):
    """It cannot be measured on this machine; the text says why."""


@dataclass(frozen=True)
class Aim:
    """What is hoped for: the median of ``row`` at most ``most`` times that of ``beside``; without one: in the unit.

    most None: nothing in particular, the ratio is only shown. least: it is to be at least so much instead.
    """

    row: str
    beside: str
    most: float | None = None
    least: bool = False


@dataclass
class Table:
    """Samples by what was measured. unit: "ms" and "s", of samples in seconds; "MB", in bytes; "a second": a count."""

    title: str
    unit: str
    samples: dict[str, list[float]]
    aims: list[Aim] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(what, median, least, how many samples, beside what and the aim), in words, for each row."""
        factor, form = _UNITS[self.unit]
        for name, samples in self.samples.items():
            middle, low = (form.format(factor * amount) for amount in (statistics.median(samples), min(samples)))
            yield name, middle, low, str(len(samples)), "; ".join(filter(None, map(self._against, self._aims(name))))

    def ratio(self, aim: Aim) -> float | None:
        """What is to be compared with the aim, or None where one of the two was not measured."""
        if aim.row not in self.samples or (aim.beside and aim.beside not in self.samples):
            return None
        base = statistics.median(self.samples[aim.beside]) if aim.beside else 1 / _UNITS[self.unit][0]
        return statistics.median(self.samples[aim.row]) / base

    def _aims(self, row: str) -> list[Aim]:
        return [aim for aim in self.aims if aim.row == row]

    def _against(self, aim: Aim) -> str:
        found = self.ratio(aim)
        if found is None:
            return ""
        words = f"{found:.2f} times {aim.beside}" if aim.beside else ""
        if aim.most is None:
            return words
        reached = found >= aim.most if aim.least else found <= aim.most
        aimed = f"aim: at {'least' if aim.least else 'most'} {aim.most:g}{'' if aim.beside else f' {self.unit}'}"
        return f"{words} ({aimed}: {'met' if reached else 'missed'})".strip()


@dataclass
class Measurement:
    """One part of ``./walls bench``. absent: who was not measured -> why. notes: sentences on how it was done.

    It is made when all is measured; "load" among the facts of the machine is to be set to what it was before.
    """

    part: str
    tables: list[Table]
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    def text(self) -> str:
        """For a terminal."""
        lines = []
        for table in self.tables:
            rows = list(table.rows())
            wide = max((len(row[0]) for row in rows), default=0)
            lines.append(table.title)
            lines += [
                f"  {what:<{wide}}  {middle:>11}  least {low:>11}   {against}".rstrip()
                for what, middle, low, _, against in rows
            ]
            lines.append("")
        lines += [f"not measured: {name}: {why}" for name, why in self.absent.items()]
        return "\n".join([*lines, *self.notes]).rstrip()

    def markdown(self) -> str:
        """For a page."""
        lines = []
        for table in self.tables:
            lines += [f"{table.title}:", "", "| what | median | least | samples | beside |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows()]
            lines.append("")
        facts = self.machine
        where = (
            f"Taken on {self.date}: {facts['cpus']} processors ({facts['model']}), kernel {facts['kernel']}, Python "
            f"{facts['python']}, cgroup {facts['cgroup']}, uid {facts['uid']}; load {facts['load']} when it began, "
            f"{facts['load after']} at the end."
        )
        words = [*self.notes, *(f"Not measured: {name}: {why}." for name, why in self.absent.items()), where]
        return "\n".join([*lines, textwrap.fill(" ".join(words), 120)])


def write(path: Path, found: Sequence[Measurement]) -> None:
    """Write measurements as a JSON list, with every sample. Raises OSError."""
    path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


def read(path: Path) -> list[Measurement]:
    """What write() has written. Raises OSError, and Malformed for anything else."""
    try:
        return [_measurement(each) for each in json.loads(path.read_text())]
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise Malformed(f"{path.name} holds no measurement: {error!r}") from None


def _measurement(found: dict[str, Any]) -> Measurement:
    tables = [Table(**{**table, "aims": [Aim(**aim) for aim in table["aims"]]}) for table in found["tables"]]
    measured = Measurement(**{**found, "tables": tables})
    measured.markdown()
    return measured


def machine() -> dict[str, Any]:
    """What of this machine matters to a figure."""
    named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "model": named[1] if named else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "cgroup": "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1",
        "uid": os.getuid(),
        "load": load(),
        "load after": load(),
    }


def load() -> float:
    """How many processes wanted a processor, in the last minute: proc(5) on loadavg."""
    return round(os.getloadavg()[0], 1)
