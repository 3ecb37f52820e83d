"""``./walls grade``: a class, from what was handed in to the report and the files for a learning management system."""

import argparse
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwalls.batch import (
    beyond,
    display,
    engine,
    exports,
    marks,
    one,
    report,
    roster,
    rules,
    similar,
    store,
    submissions,
)
from thinwalls.batch.graded import Graded, Person
from thinwalls.batch.one import Grading
from thinwalls.batch.submissions import Submission
from thinwalls.grading.result import NOT_GRADABLE, machine_facts
from thinwalls.host import HostError, Keeper

_DONE, _FAILED = 0, 1
_MOST_JOBS = 64


class Refused(Exception):
    """Nothing was graded; the text is a sentence. usage: whether the command was wrong, or else the machine is."""

    def __init__(self, sentence: str, usage: bool = True):
        super().__init__(sentence)
        self.usage = usage


@dataclass
class Order:
    """What was asked for, understood."""

    submissions: list[Submission]
    out: Path
    jobs: int
    seed: int | None
    regrade: bool
    unbounded: bool
    exports: list[str]
    rules: rules.Rules
    people: list[Person] | None
    adjustments: list[roster.Adjustment]
    dask: str | None
    ignored: list[str]


def add_arguments(options: argparse.ArgumentParser) -> None:
    """The words after ``./walls grade``."""
    options.add_argument(
        "submissions", nargs="+", metavar="SUBMISSION", help="a folder, .zip, .tar.gz, or one folder of them"
    )
    options.add_argument(
        "--out", required=True, metavar="DIR", help="where results and report go; again: goes on from there"
    )
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="so many at a time")
    options.add_argument(
        "--roster", metavar="CSV", help="who is in the class: id, name, email, submitted_at, extension"
    )
    options.add_argument("--adjust", metavar="CSV", help="points given by hand: id, task, points, reason")
    options.add_argument("--course", metavar="FILE", help="TOML: what counts, points, due dates, late policy")
    options.add_argument(
        "--export", action="append", default=[], metavar="NAME", help=f"a file to write: {', '.join(exports.NAMES)}"
    )
    options.add_argument("--regrade", action="store_true", help="grade again what need not be")
    options.add_argument(
        "--unbounded", action="store_true", help="also where nothing bounds the memory of a submission"
    )
    options.add_argument("--seed", type=int, metavar="N", help="the seed of the challenges")
    options.add_argument("--dask", metavar="ADDRESS", help="a Dask cluster's scheduler, to grade there")


def main(args: argparse.Namespace) -> int:
    """Grade, and give the exit status: 0 all are graded, 1 some could not be. Raises Refused."""
    order = understood(args)
    try:
        with store.Store(order.out) as results:
            return _grade(order, results)
    except (store.InUse, beyond.Missing) as error:
        raise Refused(str(error), usage=False) from None
    except HostError as error:
        raise Refused(f"nothing can be graded on this machine. {error} (./walls doctor)", usage=False) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise Refused(f"{error.strerror or error}:{where or ' ' + str(order.out)}", usage=False) from None


def understood(args: argparse.Namespace) -> Order:
    """What the arguments ask for. Everything that is wrong with them is said before anything is graded. Raises Refused."""
    if not 1 <= args.jobs <= _MOST_JOBS:
        raise Refused(f"--jobs {args.jobs}: a number from 1 to {_MOST_JOBS} is needed")
    for name in args.export:
        if name not in exports.NAMES:
            raise Refused(f"there is no export {name!r}; there are {', '.join(exports.NAMES)}")
    if "canvas" in args.export and not args.roster:
        raise Refused("--export canvas needs a --roster: Canvas knows people by the ids of its own")
    out = Path(args.out).absolute()
    if os.path.lexists(out) and not out.is_dir():
        raise Refused(f"--out {args.out!r} is no folder")
    for word in args.submissions:
        if out.resolve().is_relative_to(Path(word).resolve()):
            raise Refused(f"--out {args.out!r} is in {word!r}: it would be a submission itself the next time")
    try:
        found, ignored = submissions.find(args.submissions)
        chosen = rules.read(Path(args.course)) if args.course else rules.Rules()
        people = roster.read(Path(args.roster)) if args.roster else None
        adjustments = roster.adjustments(Path(args.adjust)) if args.adjust else []
    except (submissions.Misnamed, rules.RulesError, roster.RosterError) as error:
        raise Refused(str(error)) from None
    names = list(dict.fromkeys(args.export))
    more = (args.regrade, args.unbounded, names, chosen, people, adjustments, args.dask, ignored)
    return Order(found, out, args.jobs, args.seed, *more)


def _grade(order: Order, results: store.Store) -> int:
    if order.ignored:
        print(f"not looked at: {', '.join(map(display.clean, order.ignored))}")
    machines = _machines(order)
    ids = [task.id for _, task in order.rules.tasks]
    made_by = store.suite()
    similar.flags({})  # what it has to know of the reference is known from here on, in the processes that read, too
    found: dict[str, dict[str, Any]] = {}
    left: list[Grading] = []
    prints: dict[str, dict[str, str]] = {}
    seed = order.seed
    before = {each.id: results.read(each.id) for each in order.submissions}
    for name in (name for name, old in before.items() if not old and results.path(name).exists()):
        print(
            f"{display.clean(name)}: its result is not as it was written, so it is graded again (to change points: --adjust)"
        )
    if seed is None:
        seeds = [each["seed"] for each in before.values() if each]
        seed = max(set(seeds), key=seeds.count) if seeds else random.SystemRandom().getrandbits(32)
    for each in order.submissions:
        content = submissions.read(each.path)
        prints[each.id] = content.fingerprints
        old = before[each.id]
        own = old["seed"] if old and order.seed is None else seed
        if old and not order.regrade and old["seed"] == own and not display.trouble(old):
            facts = old["machine"]
            if facts in machines and old.get("key") == store.key(content.digest, made_by, facts, ids):
                found[each.id] = old
                continue
        left.append(Grading(each, content, own, order.rules.tasks, machines[0]))

    def keep(grading: Grading) -> dict[str, Any]:
        made = (one.unusable(grading) if grading.content.problem else grading.as_result()).as_json()
        made["key"] = store.key(grading.content.digest, made_by, made["machine"], ids)
        results.write(grading.submission.id, made)
        found[grading.submission.id] = made
        return made

    broken = [grading for grading in left if grading.content.problem]
    whole = [grading for grading in left if not grading.content.problem]
    with display.Display(len(left), len(found)) as show:
        for grading in broken:
            show.finished(grading, keep(grading))
        with tempfile.TemporaryDirectory(prefix=store.WORK, dir=results.folder) as work:
            if order.dask:
                beyond.run(order.dask, whole, show, keep)
            else:
                engine.run(whole, order.jobs, Path(work), show, keep)
    ordered = {each.id: found[each.id] for each in order.submissions}
    return _conclude(order, ordered, prints, len(left), results.others(list(ordered)))


def _machines(order: Order) -> list[dict[str, Any]]:
    """The facts of the machines that grade. Raises Refused where the memory of a submission cannot be bounded."""
    if order.dask:
        machines = beyond.machines(order.dask)
    else:
        with Keeper() as keeper:
            machines = [machine_facts(keeper.cgroup)]
    if not order.unbounded and not all(facts["bounded"] for facts in machines):
        raise Refused(
            "nothing bounds the memory that a submission takes here, for lack of a cgroup: the row 'memory bound' of "
            "./walls doctor says how to mend it; whoever trusts the submissions, or this is a machine for nothing else: "
            "--unbounded",
            usage=False,
        )
    return machines


def _conclude(
    order: Order, results: dict[str, dict[str, Any]], prints: dict[str, dict[str, str]], graded: int, others: int
) -> int:
    """Report and exports, and what is to be said at the end."""
    flags = similar.flags(prints)
    problems = {name: _problem(result) for name, result in results.items()}
    for name, problem in problems.items():
        if problem:
            flags.setdefault(name, []).insert(0, problem)
    counted = {name: order.rules.counted(result) for name, result in results.items()}
    try:
        made = marks.marked(counted, order.people, order.adjustments, order.rules.due, order.rules.late, flags)
    except roster.RosterError as error:
        raise Refused(str(error)) from None
    title = order.rules.title
    written = [report.write(order.out, made, title)]
    for name in order.exports:
        try:
            written.append(exports.write(name, order.out, made, title))
        except exports.ExportError as error:
            raise Refused(f"--export {name}: {error}") from None
        for submission, why in exports.left_out(name, made).items():
            print(f"{name}: without {display.clean(submission)}: {display.clean(why)}")
    _say(made, problems, graded, others)
    for path in written:
        print(f"written: {os.path.relpath(path)}")
    return _FAILED if any(problems.values()) else _DONE


def _problem(result: dict[str, Any]) -> str:
    """Why a submission was not graded, or not all of it; "": it was."""
    tasks = [task for stage in result["stages"] for task in stage["tasks"]]
    first: str = tasks[0]["message"]
    if first.startswith(one.UNUSABLE):
        return first
    return display.trouble(result)


def _say(made: Sequence[Graded], problems: dict[str, str], graded: int, others: int) -> None:
    print(f"{len(problems)} submissions: {graded} graded now, {len(problems) - graded} as they were")
    absent = [each for each in made if marks.NOTHING in each.flags]
    if absent:
        print(f"missing: {', '.join(display.clean(each.id) for each in absent)}")
    for name, problem in problems.items():
        if problem:
            print(f"failed: {display.clean(name)}: {display.clean(problem)}")
    ungradable = {
        task["id"]: task["message"]
        for each in made
        for task in marks.tasks(each.result)
        if task["status"] == NOT_GRADABLE
    }
    for id, why in ungradable.items():
        print(f"not gradable on this machine: {id}: {display.clean(why)}")
    if others:
        print(f"there are {others} more results in the store, of submissions that were not named")


__all__ = ["Order", "Refused", "add_arguments", "main", "understood"]
