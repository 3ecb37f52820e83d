# fails: 0.1 0.2 0.3 0.4 0.5
# says: WallBroke
"""Text that a terminal obeys and a page runs, wherever text of ours is shown."""

_TEXT = "\x1b[2J\x1b]0;passed\x07\r0.1 passed\x9b31m\u202edessap\u2028<script>alert(1)</script>\0\x7f\ud800&amp;=HYPERLINK()"


class WallBroke(Exception):
    pass


def run(program):
    print(_TEXT)
    raise WallBroke(_TEXT)


def exit_status(status):
    return _TEXT


def launch(program, walls=()):
    exec(compile(f"raise type({_TEXT!r}, (Exception,), {{}})({_TEXT!r} * 9999)", "/course/\x1b[7m\n", "exec"))
