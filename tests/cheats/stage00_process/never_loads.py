# fails: 0.1 0.2 0.3 0.4 0.5
# says: no answer within
"""The import of this file never ends."""

while True:
    pass


def run(program):
    return 0


def launch(program, walls=()):
    return 0
