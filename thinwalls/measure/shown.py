"""Figures as a lesson shows them: tables in words, and plots. What one's own run has not measured, the course's shows."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from thinwalls.measure import figures
from thinwalls.plot import Plot, short

_MB = 1e6
_WHAT = {"process": "processes", "container": "containers", "machine": "machines"}


class Shown:
    """The figures of ``figures.load()``, and for what is missing in them the stored ones."""

    def __init__(self) -> None:
        self._first, self.sentence = figures.load()
        self._files = [self._first, json.loads(figures.STORED.read_text())]

    def find(self, claim: str, *path: str) -> tuple[Any, str]:
        """A value, and how it is to be labelled: "emulated" or "KVM", and "the course's" if the reader's own has none."""
        for found in self._files:
            value = found["claims"][claim]
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None and not (isinstance(value, dict) and "not measured" in value):
                return value, found["label"] + (", the course's" if found != self._first else "")
        raise LookupError(f"there is no figure for {claim}: {path}")

    def starts(self) -> str:
        """7: the median seconds of a start, bytes of disk, and system calls, one line each."""
        lines = [f"{'':<11}{'start':>12}{'disk':>12}{'one more':>12}{'system calls':>15}"]
        least = statistics.median(self.find("lightness", "starts", "process")[0])
        for name in _WHAT:
            samples, label = self.find("lightness", "starts", name)
            took = statistics.median(samples)
            disk = self.find("lightness", "disk", name)[0]
            again = 0 if name == "process" else self.find("lightness", "disk", f"next {name}")[0]
            calls = self.find("lightness", "calls", name)[0]
            cells = f"{short(took * 1000):>9} ms{short(disk / _MB):>9} MB{short(again / _MB):>9} MB{calls:>15,}"
            how = f"  {label}" if name == "machine" else ""
            lines.append(f"{name:<11}{cells}  {took / least:,.0f}x{how}")
        return "\n".join(lines)

    def memory(self, counted: str = "pss", logarithmic: bool = False) -> Plot:
        """7: memory of N at once, in MB. counted: "pss" or "cgroup"."""
        how = {"pss": "their share of pages (PSS)", "cgroup": "charged to their cgroups"}[counted]
        return Plot(f"Memory of N at once: {how}", "MB", "N", self._curves(counted, _MB), logarithmic)

    def each(self, counted: str = "pss") -> dict[str, float]:
        """7: the slope of ``memory``: how many MB one more of each takes."""
        return {name: slope(points) for name, points in self._curves(counted, _MB).items()}

    def up(self) -> Plot:
        """9: seconds until N are up."""
        return Plot("Until N at once are up", "seconds", "N", self._curves("up"), logarithmic=True)

    def down(self) -> Plot:
        """9: seconds until N are gone."""
        return Plot("Until N at once are gone", "seconds", "N", self._curves("down"), logarithmic=True)

    def _curves(self, what: str, unit: float = 1) -> dict[str, list[tuple[float, float]]]:
        curves = {}
        for name, words in _WHAT.items():
            rows, label = self.find("many", name)
            label = f"{words}, {label}" if name == "machine" else words
            curves[label] = [(row["n"], row[what] / unit) for row in rows if row["n"] <= 8 and row[what] is not None]
        return {name: points for name, points in curves.items() if points}

    def in_a_machine(self, what: str) -> Plot:
        """11: N containers in one machine beside N machines: ``up`` (seconds) or ``pss`` (memory)."""
        inside, label = self.find("in a machine", "containers")
        alone = self.find("many", "machine")[0]
        bare = self.find("many", "container")[0]
        unit = _MB if what == "pss" else 1
        rows = {f"machines, {label}": alone, "containers in one": inside, "containers here": bare}
        curves = {name: [(row["n"], row[what] / unit) for row in each if row["n"] <= 8] for name, each in rows.items()}
        if what == "pss":
            return Plot("Memory of N: containers in one machine, and N machines", "MB", "N", curves)
        return Plot(
            "Until N are up: containers in one machine, and N machines", "seconds", "N", curves, logarithmic=True
        )

    def answers(self) -> str:
        """1, 4 and 10: what a program learns of the computer under it, asked in three places."""
        asked, _ = self.find("computer", "answers", "process")
        container = self.find("computer", "answers", "container")[0]
        inside, label = self.find("computer", "answers", "machine")
        lines = [f"{'':<13}{'a process':<27}{'a container':<16}a machine ({label})"]
        for name, answer in asked.items():
            same = container.get(name) == answer
            theirs = "the same" if same else _fit(container.get(name, ""), 14)
            lines.append(f"{name:<13}{_fit(answer, 25):<27}{theirs:<16}{_fit(inside.get(name, ''), 25)}")
        return "\n".join(line.rstrip() for line in lines)

    def tries(self) -> str:
        """5: what a process and a container reach of another process."""
        found = self.find("isolation")[0]
        lines = [f"{'':<33}{'a process beside it':<23}a container"]
        lines += [f"{name:<33}{answer:<23}{found['container'][name]}" for name, answer in found["process"].items()]
        return "\n".join(lines)

    def ways(self) -> str:
        """6: by which ways one container hears another."""
        apart, bridge = self.find("communication", "apart")[0], self.find("communication", "on one bridge")[0]
        lines = [f"{'':<35}{'each on its own':<36}on one bridge"]
        lines += [f"{name:<35}{answer:<36}{bridge[name]}" for name, answer in apart.items()]
        return "\n".join(lines)

    def levels(self) -> str:
        """3: counting, in computers in computers."""
        count = self.find("nesting", "count")[0]
        levels, label = self.find("nesting", "levels")
        names = ("a process", f"a machine ({label})", "a machine in that (emulated)")
        lines = [f"counting to {count:,}", f"{'':<30}{'first word after':>18}{'counting':>12}"]
        for level, name in zip(levels, names, strict=True):
            first = f"{level['first word']:.2f} s" if "first word" in level else ""
            times = level["counting"] / levels[0]["counting"]
            lines.append(f"{name:<30}{first:>18}{level['counting']:>10.2f} s  {times:,.0f}x")
        return "\n".join(lines)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows with x, by least squares; of a single point: y for each of x."""
    if len(points) < 2:
        return points[0][1] / points[0][0]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def _fit(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."
