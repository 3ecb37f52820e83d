"""The paper on which all pictures of the lessons are drawn: one width, two sizes of letters, a few kinds of lines.

A picture has to be read on a telephone, in print and without colour. So it is narrow, no letter is small, and a line
says what it means by its width and its dashes. Every text is given the room that it has, and one that does not fit
is an error: a picture is never made in which words run out of their box.
"""

from collections.abc import Sequence
from html import escape

from thinwalls.drawing import DARK, STROKES

WIDTH = 520  # of every picture, in its own units; shown at most so wide, and narrower where the page is
LARGE, SMALL = 18, 15  # letters; a telephone of 380 pixels shows the small ones about 10 pixels high
LINE = 19  # from one line of text to the next
EDGE = 14  # left free at each side
_SANS = "system-ui, 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_KINDS = {**STROKES, "plain": 'stroke-width="1.5"'}
Point = tuple[float, float]


class Unfit(ValueError):
    """A text is longer than the room that it was given."""


def wide(words: str, size: int = SMALL, bold: bool = False, mono: bool = False) -> float:
    """How wide a text is at the most, estimated by its characters: DejaVu Sans is the widest of the fonts named here."""
    if mono:
        return len(words) * size * 0.61
    narrow, broad = (sum(each in kind for each in words) for kind in ("iljtfr .,:;'()/!", "mwMW%@"))
    capital = sum(each.isupper() for each in words if each not in "MW")
    other = len(words) - narrow - broad - capital
    return size * (0.42 * narrow + 0.99 * broad + 0.79 * capital + 0.64 * other) * (1.12 if bold else 1)


class Paper:
    """A picture while it is drawn.

    name: that of its file, and so unique. title: what it is of. told: its text alternative, which says in words all
    that is to be seen.
    """

    def __init__(self, name: str, title: str, told: str):
        self.name, self.title, self.told = name, title, " ".join(told.split())
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, room: float, *, size: int = SMALL, anchor: str = "start", way: str = ""
    ) -> None:
        """Words on a base line. A first character "*" makes them bold, "`" is for what stands so in code.

        room: how wide they may be; more is Unfit. anchor: "start", "middle" or "end", where x is in them.
        """
        bold, mono = words.startswith("*"), words.startswith("`")
        words = words[1:] if bold or mono else words
        if wide(words, size, bold, mono) > room:
            raise Unfit(f"{self.name}: {words!r} takes {wide(words, size, bold, mono):.0f}, and has {room:.0f}")
        more = f' text-anchor="{anchor}"' if anchor != "start" else ""
        more += ' font-weight="bold"' if bold else f' font-family="{_MONO}"' if mono else ""
        more += f' font-size="{size}"' if size != SMALL else ""
        more += f' text-decoration="{way}"' if way else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}" fill="currentColor"{more}>{escape(words)}</text>')

    def head(self, words: str) -> None:
        """The title, at the top."""
        self.text(WIDTH / 2, 30, f"*{words}", WIDTH - 2 * EDGE, size=LARGE, anchor="middle")

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str] = (),
        kind: str = "plain",
        *,
        left: bool = False,
        top: bool = False,
        gone: bool = False,
    ) -> None:
        """A box, and in it lines of text. kind: "plain", "own", "shared" or "off".

        left: the lines begin at its left edge, otherwise they are in its middle. top: at its top. gone: struck out.
        """
        where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self._parts.append(f'<rect class="page" fill="#ffffff" stroke="currentColor" {where} rx="3" {_KINDS[kind]}/>')
        if len(lines) * LINE > height:
            raise Unfit(f"{self.name}: {len(lines)} lines in a box {height:g} high")
        base = y + (4 if top else (height - len(lines) * LINE) / 2) + 14.5
        for number, words in enumerate(lines):
            at, anchor = (x + 10, "start") if left else (x + width / 2, "middle")
            room = width - (18 if left else 12)
            self.text(at, base + number * LINE, words, room, anchor=anchor, way="line-through" if gone else "")

    def line(self, *points: Point, kind: str = "plain", arrow: bool = False) -> None:
        """A line through some points; arrow: with a head at its end."""
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path d="M{path}" fill="none" stroke="currentColor" {_KINDS[kind]}/>')
        if arrow:
            (x, y), (x0, y0) = points[-1], points[-2]
            length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
            u, v = (x - x0) / length, (y - y0) / length
            ends = ((x - 11 * u + 5 * v, y - 11 * v - 5 * u), (x - 11 * u - 5 * v, y - 11 * v + 5 * u))
            head = "L".join(f"{a:.4g} {b:.4g}" for a, b in ((x, y), *ends))
            self._parts.append(f'<path d="M{head}Z" fill="currentColor"/>')

    def striped(self, x: float, y: float, width: float, height: float) -> None:
        """A bar with stripes: what is new."""
        where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        fill = f'class="page" fill="#ffffff" stroke="currentColor" {where}'
        self._parts.append(f"<rect {fill}/>")
        self._parts.append(f'<rect fill="url(#{self.name}-stripes)" stroke="currentColor" {where} {_KINDS["plain"]}/>')

    def svg(self, height: float) -> str:
        """The picture, so many units high, as the text of a file."""
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="thinwalls-drawing" role="img" color="#1b1f24" '
            f'font-size="{SMALL}" font-family="{_SANS}" width="{WIDTH}" height="{height:g}" '
            f'viewBox="0 0 {WIDTH} {height:g}" aria-labelledby="{self.name}-title {self.name}-desc">',
            f'<title id="{self.name}-title">{escape(self.title)}</title>',
            f'<desc id="{self.name}-desc">{escape(self.told)}</desc>',
            f"<style>{DARK}</style>",
            f'<defs><pattern id="{self.name}-stripes" width="7" height="7" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><path d="M0 0v7" stroke="currentColor" stroke-width="6"/></pattern></defs>',
            f'<rect class="page" fill="#ffffff" width="{WIDTH}" height="{height:g}" rx="6"/>',
        ]
        return "\n".join([*lines, *self._parts, "</svg>", ""])
