"""A class made up for the tests of its exports and its report: real verdicts, and names and words that mean harm."""

from thinwalls import course
from thinwalls.batch import Person, late, marks, roster
from thinwalls.grading.result import Result, Verdict

SCRIPT = "<script>document.title='owned';fetch('http://127.0.0.1:9/')</script>"
HOSTILE = f"{SCRIPT}\x1b[31;2J\u202edetrever\u2066<img src=x onerror=alert(1)>]]>&amp;\0\udcff`|**x**"
NAMES = {
    "s01": "Müller, Anna",
    "s02": '=HYPERLINK("http://evil.example","x")',
    "s03": 'Jo "JJ" O\'Neil',
    "s04": "Åse Øye",
    "s05": f"Bobby {SCRIPT}",
    "s06": "山田 太郎",
    "s07": "\u202egnorw",
    "s08": "+49 Ben",
    "s09": "@Cleo",
    "s10": "-Dan",
}


def result(name, wrong=(), hostile=False, absent=(), trouble=()):
    """A result in which everything passed but what is named, as the grader itself would write it."""
    tasks = [(stage, task) for stage in course.stages() for task in stage.tasks]
    verdicts = {}
    for _, task in tasks:
        verdict = Verdict(task.id, "passed", duration_s=0.1)
        if task.id in wrong:
            verdict = Verdict(task.id, "failed", f"started `{name}`", "it is 7", f"it is {len(name)}", "look at clone")
        if task.id in wrong and hostile:
            verdict = Verdict(task.id, "failed", HOSTILE, HOSTILE, HOSTILE + "x" * 5000, HOSTILE)
        if task.id in wrong and task.id.startswith("5"):
            verdict = Verdict(task.id, "failed", yours=f"task {task.id} is not built yet: run() in a file")
        if task.id in wrong and task.id.startswith("6"):
            verdict = Verdict(task.id, "timeout", expected="an answer", yours="no answer within 1.0 seconds")
        if task.id in absent:
            verdict = Verdict(task.id, "not_gradable", message="a host has one user id here")
        if task.id in trouble:
            verdict = Verdict(task.id, "infra_error", message="the graded test broke")
        verdicts[task.id] = verdict
    machine = {"kernel": "6.1", "uid": 0, "bounded": True}
    return Result(f"submissions/{name}", 7, tasks, machine, verdicts, name, "2026-12-02T10:00:00+00:00", 2.5).as_json()


def everybody():
    """The class, marked: ten of them in the roster and one not, two who handed nothing in, one with trouble of ours."""
    five = [task.id for task in course.stage("5").tasks]
    results = {
        "s01": result("s01", absent=["6.10"]),
        "s02": result("s02", ["0.5", "2.3"], absent=["6.10"]),
        "s03": result("s03", ["0.5", "1.4", *five], absent=["6.10"]),
        "s04": result("s04", ["0.5", "6.1", "6.2"], absent=["6.10"]),
        "s05": result("s05", ["0.5", "2.3"], hostile=True, absent=["6.10"]),
        "s06": result("s06", five, absent=["6.10"]),
        "s07": result("s07", ["0.1", "0.2"], absent=["6.10"], trouble=["3.1"]),
        "s08": result("s08", absent=["6.10"]),
        f"../{SCRIPT[:30]}": result("x", ["0.5"], absent=["6.10"]),
    }
    people = [Person(name, full, f"{name}@x.example") for name, full in NAMES.items()]
    people[0] = Person("s01", NAMES["s01"], "a@x.example", "2026-12-01T20:00:00+01:00")
    due = roster.moment("2026-12-01T18:00:00+01:00")
    given = [
        roster.Adjustment("adjust.csv, line 2", "s08", "6.10", 1, "shown, in <b>class</b>"),
        roster.Adjustment("adjust.csv, line 3", "s08", "1.1", 0.5, "half of it"),
        roster.Adjustment("adjust.csv, line 4", "s10", "", 12.5, "oral exam"),
    ]
    flags = {"s02": ["stage00_process.py is the same program as the published solution"]}
    rule = late.policy({"percent_per_day": 10})
    return marks.marked(results, people, given, {stage.id: due for stage in course.stages()}, rule, flags)


def example():
    """The two of docs/exports.md: one a day late, one to whom points were given by hand."""
    stage = course.stage("1")
    results = {}
    failures = {
        "abel": Verdict(
            "1.4", "failed", "ran escape() in a jail", "it gets out", "it is still in", "chdir after chroot"
        ),
        "mueller_17": Verdict(
            "1.2", "failed", "ran `hello` by its name", "it is found", "FileNotFoundError", "see PATH"
        ),
    }
    for name, failure in failures.items():
        verdicts = {task.id: Verdict(task.id, "passed", duration_s=0.25) for task in stage.tasks}
        verdicts[failure.id] = failure
        if name == "mueller_17":
            verdicts["1.3"] = Verdict("1.3", "not_gradable", message="the reference does not do it here")
        tasks = [(stage, task) for task in stage.tasks]
        results[name] = Result(name, 7, tasks, {}, verdicts, name, "2026-12-02T10:00:00+00:00", 1.25).as_json()
    people = [
        Person("17", "Müller, Anna", "mueller@school.example", "2026-12-01T17:30+01:00"),
        Person("18", "Abel Abt", "abel@school.example", "2026-12-02T09:00+01:00"),
        Person("19", "=Cleo", "cleo@school.example", "", "2d"),
    ]
    given = [roster.Adjustment("adjust.csv, line 2", "17", "1.3", 1, "shown in class")]
    due = {stage.id: roster.moment("2026-12-01T18:00+01:00")}
    return marks.marked(results, people, given, due, late.policy({"grace": "15m", "percent_per_day": 10}))
