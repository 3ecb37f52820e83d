# fails: 0.1 0.2 0.3 0.4 0.5
# says: a rule of this stage
"""Uses what the stage forbids, under another name."""

import os as system

import posix as p


def run(program):
    return p.waitstatus_to_exitcode(p.waitpid(system.posix_spawn(program.argv[0], program.argv, program.env), 0)[1])
