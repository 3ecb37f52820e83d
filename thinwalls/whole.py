"""Files that are there whole or not at all, at whatever moment the process that writes them is ended."""

import os
import tempfile
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a text file (UTF-8, mode 644) in place of what has its name. Raises OSError; then that is as it was.

    It is written under another name, ".NAME." and more, beside it: that is what a process that is killed may leave.
    """
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name[:120]}.", delete=False) as file:
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the content does
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
