"""Walls drawn: a scalable picture (SVG) that needs neither colour nor any file beside it to be read."""

from collections.abc import Sequence
from html import escape

# A wall's line says its state by width and dashes, for eyes and printers without colour.
STROKES = {
    "own": 'stroke-width="3.5"',
    "shared": 'stroke-width="1.5" stroke-dasharray="9 5"',
    "off": 'stroke-width="1.5" stroke-dasharray="0.5 5" stroke-linecap="round"',
    "unknown": 'stroke-width="1" stroke-dasharray="12 3 2 3"',
}
# Plain attributes draw it in black on white everywhere; only what knows the page to be dark changes that.
DARK = """@media (prefers-color-scheme: dark) {
.thinwalls-drawing { color: #e8eaed; } .thinwalls-drawing .page { fill: #1b1f24; }
}"""
_WIDTH, _BAND, _GAP, _TOP = 880, 24, 6, 44  # pixels: all, one wall's words, between walls, above the first


def walls(name: str, core: str, title: str, caption: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """An SVG element: what is at the core, and a wall around it for each row, the outermost first.

    name: unique on the page. rows: label, state ("own", "shared", "off" or "unknown") and evidence of each wall.
    All texts are escaped here for XML; what is invisible or acts on the direction of text is the caller's to escape.
    The text alternative (<title> and <desc>) says in full what the drawing may have to shorten.
    """
    middle = _TOP + len(rows) * _BAND  # where the innermost wall's own words end
    height = middle + 50 + len(rows) * _GAP + 40
    told = [caption]
    for state in STROKES:
        these = [f"{label} ({evidence})" for label, its, evidence in rows if its == state]
        told += [f"{state.capitalize()}: {'; '.join(these)}."] if these else []
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="thinwalls-drawing" role="img" color="#1b1f24" font-size="13" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-desc">{escape(" ".join(told))}</desc>',
        f"<style>{DARK}</style>",
        f'<rect class="page" fill="#ffffff" width="{_WIDTH}" height="{height}" rx="6"/>',
        _text(14, 26, caption, _WIDTH - 28),
    ]
    for number, (label, state, evidence) in enumerate(rows):
        x, y = 12 + number * _GAP, _TOP + number * _BAND
        box = f'x="{x}" y="{y}" width="{_WIDTH - 2 * x}" height="{height - 32 - number * _GAP - y}" rx="3"'
        lines.append(f'<rect {box} fill="none" stroke="currentColor" {STROKES[state]}/>')
        weight = 'font-weight="bold"' if state == "own" else ""
        lines += [_text(x + 10, y + 17, label, 110, weight), _text(236, y + 17, state, 64, weight)]
        lines.append(_text(304, y + 17, evidence, _WIDTH - x - 314))
    lines.append(_text(_WIDTH // 2, middle + 29, core, 500, 'font-weight="bold" text-anchor="middle"'))
    for number, state in enumerate(STROKES):
        x, y = 14 + number * 150, height - 14
        lines.append(f'<path d="M{x} {y}h48" stroke="currentColor" {STROKES[state]}/>')
        lines.append(_text(x + 58, y + 4, state, 80))
    return "\n".join([*lines, "</svg>", ""])


def _text(x: int, y: int, words: str, room: int, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="currentColor" {more}>{escape(_fit(words, room))}</text>'


def _fit(text: str, room: int) -> str:
    """As much of the text as fits into so many pixels: 8 for a character, 16 for one that is not ASCII."""
    left = room // 8
    for position, each in enumerate(text):
        left -= 1 if each.isascii() else 2
        if left < 0:
            return text[: max(position - 1, 0)] + "…"
    return text
