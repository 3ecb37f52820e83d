"""Figures drawn: bars and curves as a scalable picture (SVG), which needs no colour, and the same in words.

In a notebook a Plot shows itself. Its text is the alternative: a table with all that is in the picture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# A curve is told by its dashes and the sign at its points, for eyes and printers without colour.
_DASHES = ("", "9 5", "2 4", "12 4 2 4")
_SIGNS = ("M-4-4h8v8h-8z", "M0-5L5 4H-5z", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M0-6L5 0 0 6-5 0z")
_DARK = """@media (prefers-color-scheme: dark) {
.thinwalls-plot { color: #e8eaed; } .thinwalls-plot .page { fill: #1b1f24; } .thinwalls-plot .sign { fill: #1b1f24; } }"""
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _LOW, _LINE = 720, 380, 76, 48, 210, 330, 16  # pixels
_WORDS = 22  # characters that fit beside the curves


@dataclass(frozen=True)
class Plot:
    """Curves: a name and points (x, y) for each. Both axes begin at 0, or are logarithmic in y.

    unit: of y; along: what x counts. A single point of a curve is drawn as its sign. first: which sign and dashes the
    first curve has, counted from 0: so two plots can give the same ones to what they have in common.
    """

    title: str
    unit: str
    along: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False
    first: int = 0

    def __str__(self) -> str:
        xs = sorted({x for points in self.curves.values() for x, _ in points})
        width = max(len(name) for name in (self.along, *self.curves)) + 2
        lines = [f"{self.title} ({self.unit})", f"{self.along:<{width}}" + "".join(f"{x:>9g}" for x in xs)]
        for name, points in self.curves.items():
            there = dict(points)
            cells = (f"{short(there[x]):>9}" if x in there else f"{'':>9}" for x in xs)
            lines.append(f"{name:<{width}}" + "".join(cells).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The picture, with the table as its text alternative. Raises ValueError for what cannot be drawn."""
        points = [point for each in self.curves.values() for point in each]
        room = len(_SIGNS) - self.first
        if not points or len(self.curves) > room or (self.logarithmic and min(y for _, y in points) <= 0):
            raise ValueError(f"{self.title!r}: one to {room} curves can be drawn, and a logarithm of more than 0")
        most = max(x for x, _ in points) or 1
        low, ticks = _scale([y for _, y in points], self.logarithmic)
        high = ticks[-1]

        def place(x: float, y: float) -> tuple[float, float]:
            part = math.log(y / low) / math.log(high / low) if self.logarithmic else y / high
            return round(_LEFT + x / most * (_WIDTH - _LEFT - _RIGHT), 1), round(_LOW - part * (_LOW - _TOP), 1)

        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="thinwalls-plot" role="img" color="#1b1f24" font-size="13" '
            f'font-family="system-ui, sans-serif" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
            f"<title>{escape(self.title)}</title><desc>{escape(str(self))}</desc><style>{_DARK}</style>",
            f'<rect class="page" fill="#ffffff" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
            _text(14, 24, f"{self.title} ({self.unit})", 'font-weight="bold"'),
            _text(_LEFT, _HEIGHT - 12, self.along),
            f'<path d="M{_LEFT} {_TOP}V{_LOW}H{_WIDTH - _RIGHT}" fill="none" stroke="currentColor"/>',
        ]
        for tick in ticks:
            y = place(0, tick)[1]
            lines.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".2"/>')
            lines.append(_text(_LEFT - 8, y + 4, short(tick), 'text-anchor="end"'))
        for x in sorted({x for x, _ in points}):
            lines.append(_text(place(x, high)[0], _LOW + 18, f"{x:g}", 'text-anchor="middle"'))
        taken: list[tuple[float, float]] = []  # by names at the end of curves, from one line's height to another's
        for number, (name, curve) in enumerate(self.curves.items(), self.first):
            there = [place(x, y) for x, y in sorted(curve)]
            way = " ".join(f"{x},{y}" for x, y in there)
            dash = f'stroke-dasharray="{_DASHES[number]}"' if _DASHES[number] else ""
            lines.append(f'<polyline points="{way}" fill="none" stroke="currentColor" stroke-width="2" {dash}/>')
            shape = f'd="{_SIGNS[number]}" class="sign" fill="#ffffff" stroke="currentColor" stroke-width="2"'
            lines += [f'<path transform="translate({x} {y})" {shape}/>' for x, y in there]
            words, y = _in_lines(name), there[-1][1]
            deep, step = _LINE * (len(words) - 1), 2 if y < (_TOP + _LOW) / 2 else -2  # towards where there is room
            while any(y < low + 18 and high < y + deep + 18 for high, low in taken):  # names do not cover each other
                y += step
            taken.append((y, y + deep))
            lines.append(f'<path transform="translate({_WIDTH - _RIGHT + 22} {y})" {shape}/>')
            lines += [_text(_WIDTH - _RIGHT + 34, y + 4 + _LINE * at, each) for at, each in enumerate(words)]
        return "\n".join([*lines, "</svg>", ""])


def short(number: float) -> str:
    """A number as people read it: three digits, or all of a larger one."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _in_lines(name: str) -> list[str]:
    """A name in lines that fit beside the curves; it is broken after commas."""
    lines: list[str] = []
    for part in name.split(", "):
        if lines and len(f"{lines[-1]} {part}") <= _WORDS:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
        lines[-1] += ","
    return [*lines[:-1], lines[-1].removesuffix(",")]


def _scale(ys: Sequence[float], logarithmic: bool) -> tuple[float, list[float]]:
    """Where an axis begins, and its ticks."""
    if logarithmic:
        first = math.floor(math.log10(min(ys)))
        last = max(math.ceil(math.log10(max(ys))), first + 1)
        return 10**first, [10.0**power for power in range(first, last + 1)]
    step = 10 ** math.floor(math.log10(max(ys) or 1))
    step = next(each for each in (step / 5, step / 2, step, 2 * step) if max(ys) / each <= 6)
    return 0, [step * number for number in range(math.ceil(max(ys) / step) + 1)]


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="currentColor" {more}>{escape(words)}</text>'
