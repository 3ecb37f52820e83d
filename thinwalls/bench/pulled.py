"""The reference's side of ``./walls bench pull``: a program that pulls an image, unpacks it, and says what it took.

``python -m thinwalls.bench.pulled STAGES IMAGE PLACE``. STAGES: a folder with a package ``stages``, of the reference.
PLACE: an empty folder, where the store and the rootfs go. It prints the most memory it had, in bytes.
"""

import importlib
import os
import re
import sys
from pathlib import Path

from thinwalls.transport import Transport


def main(stages: str, image: str, place: str) -> None:
    """Pull and unpack."""
    sys.path.insert(0, stages)
    stage = importlib.import_module("stages.stage06_image_pull")
    store, rootfs = f"{place}/store", f"{place}/rootfs"
    for directory in (store, rootfs):
        os.mkdir(directory)
    with Transport() as transport:
        digest = stage.pull(image, store, transport)
    stage.unpack(store, digest, rootfs)
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert peak
    print(int(peak[1]) * 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
