"""Figures as a lesson shows them: tables in words, and plots. What one's own run has not measured, the course's shows."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from thinwalls.measure import figures
from thinwalls.plot import Plot, short

_MB = 1e6
_WHAT = {"process": "processes", "container": "containers", "machine": "machines"}
_THEIRS = "the course's"  # at the end of a label


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
            if value not in (None, []) and not (isinstance(value, dict) and "not measured" in value):
                return value, found["label"] + (f", {_THEIRS}" if found != self._first else "")
        raise LookupError(f"there is no figure for {claim}: {path}")

    def starts(self) -> str:
        """7: the median seconds of a start, bytes of disk, and system calls, one line each, and times a process's."""
        lines = [f"{'':<11}{'start':>13}{'':>9}{'disk':>13}{'one more':>13}{'system calls':>16}"]
        first: dict[str, float] = {}
        theirs = False
        for name in _WHAT:
            again = ("process",) if name == "process" else (f"next {name}",)
            line, label = f"{name:<11}", ""
            for path, unit, width in (
                (("starts", name), " ms", 9),
                (("disk", name), " MB", 9),
                (("disk", *again), " MB", 9),
                (("calls", name), "", 15),
            ):
                value, whose = self.find("lightness", *path)
                label = label or whose
                number = statistics.median(value) * 1000 if unit == " ms" else value / _MB if unit else value
                mark = "*" if whose.endswith(_THEIRS) else " "
                theirs |= mark == "*"
                line += f"{short(number):>{width}}{unit}{mark}"
                if path[0] in ("starts", "calls"):
                    line += f"{f'{number / first.setdefault(path[0], number):,.0f}x':>9}"
            lines.append(f"{line}  {label}" if name == "machine" else line.rstrip())
        return "\n".join([*lines, f"* {_THEIRS}: this machine's run has none"] if theirs else lines)

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
            label = f"{words}, {label}" if name == "machine" else words + _whose(label)
            curves[label] = [(row["n"], row[what] / unit) for row in rows if row["n"] <= 8 and row[what] is not None]
        return {name: points for name, points in curves.items() if points}

    def in_a_machine(self, what: str) -> Plot:
        """11: N containers in one machine beside N machines: ``up`` (seconds) or ``pss`` (memory)."""
        inside, of_inside = self.find("in a machine", "containers")
        alone, of_alone = self.find("many", "machine")
        bare, of_bare = self.find("many", "container")
        unit = _MB if what == "pss" else 1
        rows = {
            f"containers here{_whose(of_bare)}": bare,
            f"machines, {of_alone}": alone,
            f"containers in one, {of_inside}": inside,
        }
        curves = {name: [(row["n"], row[what] / unit) for row in each if row["n"] <= 8] for name, each in rows.items()}
        title, of = ("Memory of N", "MB") if what == "pss" else ("Until N are up", "seconds")
        title += ": containers in one machine, and N machines"
        # The first has the second sign, which is that of containers in the other plots, and so on.
        return Plot(title, of, "N", curves, logarithmic=what != "pss", first=1)

    def answers(self) -> str:
        """1, 4 and 10: what a program learns of the computer under it, asked in three places."""
        asked, label = self.find("computer", "answers", "process")
        container = self.find("computer", "answers", "container")[0]
        inside, of_inside = self.find("computer", "answers", "machine")
        lines = [f"{'':<13}{f'a process{_whose(label)}':<27}{'a container':<16}a machine ({of_inside})"]
        for name in asked:
            one, two, three = (_answer(name, each.get(name, "")) for each in (asked, container, inside))
            two = "the same" if two == one else _fit(two, 14)
            title = "PCI devices" if name == "devices" else name
            lines.append(f"{title:<13}{_fit(one, 25):<27}{two:<16}{_fit(three, 25)}")
        return "\n".join(line.rstrip() for line in lines)

    def tries(self) -> str:
        """5: what a process and a container reach of another process."""
        found, label = self.find("isolation")
        lines = [f"{'':<33}{'a process beside it':<23}a container{_whose(label)}"]
        lines += [f"{name:<33}{answer:<23}{found['container'][name]}" for name, answer in found["process"].items()]
        return "\n".join(lines)

    def ways(self) -> str:
        """6: by which ways one container hears another."""
        (apart, label), (bridge, of_bridge) = (self.find("communication", each) for each in ("apart", "on one bridge"))
        lines = [f"{'':<35}{f'each on its own{_whose(label)}':<36}on one bridge{_whose(of_bridge)}"]
        lines += [f"{name:<35}{answer:<36}{bridge[name]}" for name, answer in apart.items()]
        return "\n".join(lines)

    def levels(self) -> str:
        """3: counting, in computers in computers."""
        count = self.find("nesting", "count")[0]
        levels, label = self.find("nesting", "levels")
        names = ("a process", f"a machine ({label})", "a machine in that (emulated)")
        lines = [f"counting to {count:,}{_whose(label)}", f"{'':<30}{'first word after':>18}{'counting':>12}"]
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


def _whose(label: str) -> str:
    """What is put behind a name where the figures are the course's, and the reader may take them for his own."""
    return f", {_THEIRS}" if label.endswith(_THEIRS) else ""


def _answer(name: str, answer: str) -> str:
    """As much of an answer as its name speaks of."""
    words = answer.split()
    if name == "load":  # what follows is how many processes run, and the last one's number
        return " ".join(words[:3])
    if name == "open files":  # what follows is how many may be
        return words[0] if words else ""
    return f"{answer} s since 1970" if name == "switched on" else answer


def _fit(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."
