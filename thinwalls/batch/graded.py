"""A submission with its result, and whose it is: what exports and the report are made from."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Person:
    """Somebody of the class, as the roster has them. Every field may be empty but the id."""

    id: str
    name: str = ""
    email: str = ""
    submitted_at: str = ""
    extension: str = ""


@dataclass(frozen=True)
class Graded:
    """One submission, and what became of it.

    result: as ``thinwalls.grading.result`` writes it (thinwalls/result/v1). score, max_score: after the course file, the
    late policy and the adjustments. late: a sentence, or "". adjustments, flags: sentences for the instructor.
    """

    id: str
    person: Person | None
    result: dict[str, Any]
    score: float
    max_score: float
    late: str = ""
    adjustments: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
