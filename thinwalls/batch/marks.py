"""Marks: a result with its person, the points an instructor gave instead, and what lateness cost."""

import copy
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from thinwalls.batch import escape, late, roster
from thinwalls.batch.graded import Graded, Person
from thinwalls.batch.roster import Adjustment, RosterError
from thinwalls.grading.result import INFRA_ERROR, NOT_GRADABLE

NOTHING = "nothing handed in"


def marked(
    results: Mapping[str, dict[str, Any]],
    people: Sequence[Person] | None = None,
    adjustments: Sequence[Adjustment] = (),
    due: Mapping[str, datetime.datetime] | None = None,
    rule: late.Policy | None = None,
    flags: Mapping[str, Sequence[str]] | None = None,
) -> list[Graded]:
    """The class, in the roster's order; then the submissions that are nobody's, in theirs.

    results: by submission, of the contract. people: the roster, or None. due: by stage id. flags: by submission.
    Somebody who handed nothing in is there with an empty result. Raises RosterError for an adjustment of what is not
    there.
    """
    found = roster.match(people or [], results)
    largest = max((_sums(tasks(result))[1] for result in results.values()), default=0.0)
    by_person = {person.id: submission for submission, person in found.people.items()}
    order: list[tuple[str, Person | None]] = []
    for each in people or []:
        if each.id in by_person:
            order.append((by_person[each.id], each))
        elif each in found.missing:
            order.append((each.id, each))
    order += [(submission, None) for submission in results if submission not in found.people]
    unused = list(adjustments)
    made = []
    for submission, person in order:
        absent = person is not None and by_person.get(person.id) != submission
        names = {submission.casefold(), person.id.casefold() if person else ""}
        own = [given for given in adjustments if given.id.casefold() in names]
        unused = [given for given in unused if given not in own]
        remarks = [NOTHING] if absent else list((flags or {}).get(submission, ()))
        if people is not None and person is None:
            remarks.append(found.unmatched[submission])
        result = {} if absent else results[submission]
        made.append(_mark(submission, person, result, own, due or {}, rule or late.Policy(), remarks, largest))
    for given in unused:
        raise RosterError(f"{given.where}: {given.id!r} is neither a submission nor somebody of the roster")
    return made


def _mark(
    submission: str,
    person: Person | None,
    result: dict[str, Any],
    adjustments: Sequence[Adjustment],
    due: Mapping[str, datetime.datetime],
    rule: late.Policy,
    flags: list[str],
    largest: float,
) -> Graded:
    """One of the class: first the tasks' points, then lateness, and last what somebody said of the whole score."""
    result = copy.deepcopy(result)
    said = _adjust(result, [each for each in adjustments if each.task])
    for stage in result.get("stages", []):
        stage["score"], stage["max_score"] = _sums(stage["tasks"])
    if result:
        result["score"], result["max_score"] = _sums(tasks(result))
    score, lateness = _after_lateness(result, person, due, rule)
    for each in adjustments:
        if not each.task:
            before, after = escape.number(score), escape.number(each.points)
            said.append(f"the score: {after} instead of {before} points: {each.reason}")
            score = each.points
            result["adjusted"] = each.reason
    most = float(result.get("max_score", largest))
    return Graded(submission, person, result, round(score, 2), most, lateness, said, flags)


def _adjust(result: dict[str, Any], adjustments: Sequence[Adjustment]) -> list[str]:
    """Put the points of tasks in their place in the result; gives a sentence for each."""
    said = []
    for each in adjustments:
        task = next((task for task in tasks(result) if task["id"] == each.task), None)
        if task is None:
            raise RosterError(f"{each.where}: task {each.task!r} was not graded for {each.id!r}")
        before, after, most = (escape.number(points) for points in (task["points"], each.points, task["max_points"]))
        if each.points > task["max_points"]:
            raise RosterError(f"{each.where}: {after} points, where task {each.task} has {most}")
        said.append(f"task {each.task}: {after} instead of {before} points: {each.reason}")
        task.update(points=each.points, adjusted=each.reason)
    return said


def _after_lateness(
    result: dict[str, Any], person: Person | None, due: Mapping[str, datetime.datetime], rule: late.Policy
) -> tuple[float, str]:
    """(the points that are left, why), stage by stage, as each may be due at another time."""
    score = 0.0
    reasons: dict[str, list[str]] = {}
    stages = result.get("stages", [])
    for stage in stages:
        part, why = late.kept(person, due.get(stage["id"]), rule)
        score += part * stage["score"]
        if why:
            reasons.setdefault(why, []).append(stage["name"])
    if len(reasons) == 1 and sum(map(len, reasons.values())) == len(stages):
        return score, next(iter(reasons))
    return score, "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def tasks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a result, in the manifest's order."""
    return [task for stage in result.get("stages", []) for task in stage["tasks"]]


def counts(task: Mapping[str, Any]) -> bool:
    """Whether a task is in score and max_score: it could be graded, or somebody gave points for it."""
    return task["status"] != NOT_GRADABLE or "adjusted" in task


def _sums(of: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """(points, points there were to be had)."""
    counted = [task for task in of if counts(task)]
    return sum(task["points"] for task in counted), sum(task["max_points"] for task in counted)


def unsettled(graded: Graded) -> str:
    """Why there are no marks to hand on yet, in words; "": there are."""
    if "adjusted" in graded.result:
        return ""
    found = tasks(graded.result)
    if not found:
        return NOTHING
    if broken := [task["id"] for task in found if task["status"] == INFRA_ERROR and "adjusted" not in task]:
        return f"trouble of the course or the machine in {', '.join(broken)}: grade it again"
    return ""
