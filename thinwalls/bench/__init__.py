"""``./walls bench``: this runtime measured on the spot, beside the others that this machine has, in one run.

``figures`` is what every measurement gives; ``starting``, ``pulling``, ``grading`` and ``neighbour`` measure, one thing
each; ``page`` writes what was found into the documents. ``lesson`` is the comparison that the first notebook makes.
"""

from thinwalls.bench.lesson import start_times, table

__all__ = ["start_times", "table"]
