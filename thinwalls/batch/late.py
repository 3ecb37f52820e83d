"""What it costs to hand in late: a policy from a table, and what it makes of one submission."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinwalls.batch import escape, roster
from thinwalls.batch.graded import Person

_DAY = datetime.timedelta(days=1)
_NONE = datetime.timedelta(0)


@dataclass(frozen=True)
class Policy:
    """grace: so late is not late; percent_per_day: taken off for each day begun; cut_off: later than this earns nothing.

    Days and cut-off count from when it was due, not from the end of the grace.
    """

    grace: datetime.timedelta = _NONE
    percent_per_day: float = 0.0
    cut_off: datetime.timedelta | None = None


def policy(table: Mapping[str, Any]) -> Policy:
    """The policy of a table such as ``{"grace": "15m", "percent_per_day": 10, "cut_off": "7d"}``; {}: late is free.

    Raises ValueError, naming the key.
    """
    for name in table:
        if name not in ("grace", "percent_per_day", "cut_off"):
            raise ValueError(f"{name!r} is no part of a late policy; there are grace, percent_per_day, cut_off")
    spans = {}
    for name in ("grace", "cut_off"):
        if name in table:
            try:
                spans[name] = roster.span(str(table[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    percent = table.get("percent_per_day", 0)
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise ValueError(f"percent_per_day: {percent!r} is no number from 0 to 100")
    made = Policy(spans.get("grace", _NONE), float(percent), spans.get("cut_off"))
    if made.cut_off is not None and made.cut_off < made.grace:
        raise ValueError("cut_off: it comes before the end of the grace")
    return made


def kept(person: Person | None, due: datetime.datetime | None, rule: Policy) -> tuple[float, str]:
    """(the part of the points that is kept, from 0 to 1; a sentence on why, or ""). due: None for never.

    Whose time is not known loses nothing, and the sentence says so.
    """
    if due is None:
        return 1.0, ""
    if person is None or not person.submitted_at:
        return 1.0, "when it was handed in is not known: nothing is taken off"
    due = roster.extended(person.extension, due.astimezone())
    late = roster.moment(person.submitted_at) - due
    if late <= _NONE:
        return 1.0, ""
    if late <= rule.grace:
        return 1.0, f"{_words(late)} late, within the grace"
    if rule.cut_off is not None and late > rule.cut_off:
        return 0.0, f"{_words(late)} late, after the cut-off: no points"
    days = -(-late // _DAY)
    percent = min(100.0, rule.percent_per_day * days)
    return 1 - percent / 100, f"{_words(late)} late: {escape.number(percent)} % taken off"


def _words(late: datetime.timedelta) -> str:
    minutes = -(-late // datetime.timedelta(minutes=1))
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
