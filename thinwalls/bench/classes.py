"""``./walls bench class``: a class of submissions whose verdicts are known, graded by one job and by two."""

import subprocess

from thinwalls.batch import measure as batch
from thinwalls.bench.figures import Aim, Measurement, Table, Unmeasurable

_COUNT = 60  # submissions, unless the caller says otherwise
_HONEST, _LESS = 2.5, 0.67  # seconds by two jobs for each of them, and at most so much of the time of one job
_ONE, _TWO = "the class by one job, for each submission", "the class by two jobs, for each submission"


def measure(samples: int | None = None) -> Measurement:
    """Grade a class of so many, twice. Raises Unmeasurable where a verdict is not what was deserved."""
    try:
        one, two = (batch.measure(samples or _COUNT, jobs) for jobs in (1, 2))
    except subprocess.CalledProcessError as error:
        raise Unmeasurable(f"the class was not graded: {(error.stdout or '').strip()[-500:]}") from None
    if wrong := one.misjudged + two.misjudged:
        raise Unmeasurable(f"{len(wrong)} verdicts are not what was deserved: {'; '.join(wrong)[:1000]}")
    found = {_ONE: [one.a_submission], _TWO: [two.a_submission]}
    found |= {"an honest one of them, two at a time": two.honest} if two.honest else {}
    found |= {"a hostile one of them, two at a time": two.hostile} if two.hostile else {}
    aims = [Aim(_TWO, "", _HONEST), Aim(_TWO, _ONE, _LESS)]
    notes = [f"The process that graded the class took {two.memory_mib} MiB at most."]
    if two.hostile:
        notes.append(f"The longest hostile one took {max(two.hostile):.1f} s; 30 s are allowed in the implementation.")
    return Measurement("class", [Table(f"A class of {two.count} submissions", "s", found, aims)], notes=notes)
