"""A class: many submissions graded, each by itself, and what is made of the results."""

from thinwalls.batch.graded import Graded, Person

__all__ = ["Graded", "Person"]
