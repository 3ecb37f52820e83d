"""The class: people from a CSV file, and which submission is whose.

A row that cannot be used is an error that names the file and the line. A submission that could be of two people is of
nobody, and is named: better a question to the instructor than somebody else's marks.
"""

import csv
import datetime
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinwalls.batch import escape
from thinwalls.batch.graded import Person

COLUMNS = ("id", "name", "email", "submitted_at", "extension")
_LARGEST = 16 * 1024 * 1024  # bytes of a CSV file
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class RosterError(ValueError):
    """A CSV file says what cannot be; the text names file and line."""


def rows(path: Path, columns: Sequence[str], needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, the row by column) for each row of a CSV file. where: "roster.csv, line 3".

    The first line names the columns, parted by commas or by semicolons; spaces around a value do not count, and a row
    that is empty is none. Raises RosterError.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RosterError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RosterError(f"{path}, line {data[: error.start].count(10) + 1}: this is not UTF-8") from None
    if len(data) > _LARGEST:
        raise RosterError(f"{path}: more than {_LARGEST >> 20} MiB")
    if "\0" in text:
        raise RosterError(f"{path}, line {text.partition(chr(0))[0].count(chr(10)) + 1}: a null byte is no text")
    first = text.split("\n", 1)[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    begins = 1
    try:
        for row in reader:
            where, begins = f"{path}, line {begins}", reader.line_num + 1
            row = [_clean(value) for value in row]
            if not any(row):
                continue
            if not header:
                header = [name.lower() for name in row]
                for name in header:
                    if name not in columns or header.count(name) > 1:
                        what = "twice a" if name in columns else "no"
                        raise RosterError(f"{where}: {what} column {name!r}; there are {', '.join(columns)}")
                for name in needed:
                    if name not in header:
                        raise RosterError(f"{where}: the column {name!r} is missing")
                continue
            if len(row) != len(header):
                raise RosterError(f"{where}: {len(row)} values for {len(header)} columns")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RosterError(f"{path}, line {begins}: {error}") from None
    if not header:
        raise RosterError(f"{path}, line 1: the line with the columns' names is missing")


def _clean(value: str) -> str:
    return " ".join(unicodedata.normalize("NFC", value).split())


def read(path: Path) -> list[Person]:
    """The people of a roster: a CSV file with the column id, and any of name, email, submitted_at, extension.

    Raises RosterError.
    """
    seen: dict[str, str] = {}
    people = []
    for where, row in rows(path, COLUMNS, ["id"]):
        person = Person(**row)
        if not person.id:
            raise RosterError(f"{where}: this row has no id")
        if escape.cell(person.id) != person.id:
            raise RosterError(
                f"{where}: the id {person.id!r} has a sign that a spreadsheet takes for a formula's, or none can see"
            )
        if (before := seen.setdefault(person.id.casefold(), where)) != where:
            raise RosterError(f"{where}: the id {person.id!r} is there already, in {before}")
        try:
            if person.submitted_at:
                moment(person.submitted_at)
            if person.extension:
                extended(person.extension, datetime.datetime.now(datetime.UTC))
        except ValueError as error:
            raise RosterError(f"{where}: {error}") from None
        people.append(person)
    return people


def moment(text: str) -> datetime.datetime:
    """A date with a time of day, "2026-12-01 18:00" or ISO 8601; this machine's time zone where it names none.

    Raises ValueError, with a sentence.
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date with a time, such as 2026-12-01 18:00") from None
    if not re.search(r"\d[T ]\d", text):
        raise ValueError(f"{text!r} has no time of day, such as 2026-12-01 18:00")
    return found.astimezone()


def span(text: str) -> datetime.timedelta:
    """A length of time: "90m", "36h", "2d". Raises ValueError, with a sentence."""
    found = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?) ?([mhd])", text)
    if not found:
        raise ValueError(f"{text!r} is no length of time, such as 90m, 36h or 2d")
    return datetime.timedelta(**{_UNITS[found[2]]: float(found[1])})


def extended(text: str, due: datetime.datetime) -> datetime.datetime:
    """When it is due for somebody with this extension: so much later ("2d"), or at a moment of their own.

    Never earlier than for the others. Raises ValueError, with a sentence.
    """
    if not text:
        return due
    try:
        return due + span(text)
    except ValueError:
        try:
            return max(due, moment(text))
        except ValueError:
            raise ValueError(f"{text!r} is no extension, such as 2d, 36h or 2026-12-01 18:00") from None


@dataclass(frozen=True)
class Matches:
    """people: by submission; missing: those of whom there is none; unmatched: submission -> why it is nobody's."""

    people: dict[str, Person] = field(default_factory=dict)
    missing: list[Person] = field(default_factory=list)
    unmatched: dict[str, str] = field(default_factory=dict)


def match(people: Sequence[Person], submissions: Iterable[str]) -> Matches:
    """Whose each submission is, by its name.

    The name is somebody's id, email, or the part of it before the "@"; or their name; or their id is a word in it, as in
    what a learning management system makes of it ("Anna_s1234_file"). Upper and lower case are the same.
    """
    ways = (
        lambda person, name: name == _plain(person.id),
        lambda person, name: name in (_plain(person.email), _plain(person.email.partition("@")[0])),
        lambda person, name: _words(name) == _words(_plain(person.name)),
        lambda person, name: bool(re.search(rf"(?<![^\W_]){re.escape(_plain(person.id))}(?![^\W_])", name)),
    )
    found: dict[str, list[str]] = {}  # a person's id -> submissions
    unmatched: dict[str, str] = {}
    for submission in submissions:
        name = _plain(submission)
        for way in ways:
            whose = [person for person in people if name and way(person, name)]
            if whose:
                break
        if len(whose) == 1:
            found.setdefault(whose[0].id, []).append(submission)
        elif whose:
            unmatched[submission] = f"it may be of {' or of '.join(person.id for person in whose)}"
        else:
            unmatched[submission] = "nobody in the roster has this name"
    for person, several in found.items():
        if len(several) > 1:
            unmatched.update(dict.fromkeys(several, f"{person} has more than one submission: {', '.join(several)}"))
    known = {person.id: person for person in people}
    matched = {several[0]: known[person] for person, several in found.items() if len(several) == 1}
    return Matches(matched, [person for person in people if person.id not in found], unmatched)


def _plain(text: str) -> str:
    return _clean(text).casefold()


def _words(text: str) -> list[str]:
    return sorted(word for word in re.split(r"[\W_]+", text) if word)


@dataclass(frozen=True)
class Adjustment:
    """Points that an instructor gives instead of the grader's. task "": the whole score. where: file and line."""

    where: str
    id: str
    task: str
    points: float
    reason: str


def adjustments(path: Path) -> list[Adjustment]:
    """What an ``--adjust`` file says: a CSV file with the columns id, task, points, reason.

    id: of a person or a submission. Raises RosterError; the reason may not be missing.
    """
    found: dict[tuple[str, str], Adjustment] = {}
    for where, row in rows(path, ("id", "task", "points", "reason"), ("id", "points", "reason")):
        for name in ("id", "reason"):
            if not row[name]:
                raise RosterError(f"{where}: this row has no {name}")
        if not re.fullmatch(r"\d{1,6}([.]\d{1,6})?", row["points"]):
            raise RosterError(f"{where}: {row['points']!r} is no number of points, such as 2 or 1.5")
        made = Adjustment(where, row["id"], row.get("task", ""), float(row["points"]), row["reason"])
        if (before := found.setdefault((made.id.casefold(), made.task), made)) is not made:
            what = f"task {made.task}" if made.task else "the score"
            raise RosterError(f"{where}: {what} of {made.id!r} is adjusted already, in {before.where}")
    return list(found.values())
