"""An image (stage 6): documents that name each other by digest, layers on top of each other, and an overlay.

The digests are no examples: they are those of a real image, which is made here of the three layers of the lesson.
"""

import io
import json
import tarfile

from thinwalls import images
from thinwalls.pictures.paper import EDGE, WIDTH, Paper

# The layers of task 6.5, the lowest first: what each has at a path. A name that begins with .wh. is a whiteout.
LAYERS: tuple[dict[str, str], ...] = (
    {"bin/sh": "imagine a shell\n", "etc/motd": "one\n"},
    {"srv/letter": "Dear all,\n", "srv/draft": "the password is mellon\n"},
    {"etc/motd": "three\n", "srv/.wh.draft": ""},
)
_SHOWN = {"imagine a shell\n": "shell", "Dear all,\n": "letter", "the password is mellon\n": "draft"}
_CONFIG = {"Entrypoint": ["sh"], "Env": ["LANG=C"], "WorkingDir": "/srv"}


def archive(files: dict[str, str]) -> bytes:
    """A layer: a tar archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def documents() -> str:
    """From a tag to the layers: index, manifest, config, each by its digest."""
    made = {}
    for platform in ("linux/amd64", "linux/arm64/v8"):
        packed = [archive(layer) for layer in LAYERS]
        _, manifest, where = images.build(packed, _CONFIG, "none", "oci", platform)
        written = json.dumps(manifest).encode()
        made[platform] = manifest, {**images.describe(written, images.MANIFEST["oci"]), "platform": where}
    manifest, described = made["linux/amd64"]
    index = {"schemaVersion": 2, "mediaType": images.INDEX["oci"], "manifests": [each for _, each in made.values()]}
    top = images.describe(json.dumps(index).encode(), images.INDEX["oci"])
    config, layers = manifest["config"], manifest["layers"]
    paper = Paper(
        "stage06_image",
        "An image: documents that name each other by digest",
        f"""A name, stranger/letter:latest, leads to an index: a tag is a word, and means what the registry says today.
        From there on everything is named by the digest of its content. The index names a manifest for each platform:
        for linux/amd64 {_short(described)}. That manifest names a config, {_short(config)}, which says what to run,
        and three layers, the lowest first: {", ".join(map(_short, layers))}. Each layer is an archive of files. The
        layers are drawn as they lie, the lowest at the bottom.""",
    )
    paper.head("Everything has its digest for a name")
    full = WIDTH - 2 * EDGE
    paper.box(EDGE, 46, full, 36, ["`stranger/letter:latest"], "shared")
    paper.line((120, 82), (120, 118), kind="shared", arrow=True)
    paper.text(134, 104, "a tag is only a word, and may change", 370)
    paper.box(EDGE, 118, full, 104, [f"*index {_short(top)}"], "own", left=True, top=True)
    for number, (platform, (_, each)) in enumerate(made.items()):
        paper.box(30, 146 + number * 36, full - 32, 30, [f"{platform} is {_short(each)}"], left=True)
    paper.line((WIDTH - 22, 161), (WIDTH - 6, 161), (WIDTH - 6, 265), (WIDTH - EDGE, 265), arrow=True)
    paper.box(EDGE, 246, full, 180, [f"*manifest {_short(described)}"], "own", left=True, top=True)
    paper.box(30, 276, full - 32, 30, [f"config is {_short(config)}"], left=True)
    for number, layer in enumerate(layers):
        words = f"layer {number + 1} is {_short(layer)}"
        paper.box(30, 312 + number * 36, full - 32, 30, [words], left=True)
    paper.line((WIDTH - 22, 291), (WIDTH - 6, 291), (WIDTH - 6, 470), (WIDTH - EDGE, 470), arrow=True)
    paper.line((30, 327), (22, 327), (22, 399), (30, 399))
    paper.line((30, 363), (6, 363), (6, 648), (EDGE, 648), arrow=True)
    for y in (556, 602):
        paper.line((6, y), (EDGE, y), arrow=True)
    paper.box(EDGE, 450, full, 68, [f"*config {_short(config)}", "`Entrypoint, Cmd, Env, User, ..."], "own", left=True)
    for number, layer in reversed(list(enumerate(layers))):
        y = 536 + (2 - number) * 46
        paper.box(EDGE, y, full, 40, [f"*layer {number + 1} {_short(layer)}"], "own", left=True)
        paper.text(WIDTH - EDGE - 10, y + 25, "an archive", 120, anchor="end")
    paper.text(EDGE, 694, "As they lie: layer 1, listed first, is the lowest.", 490)
    return paper.svg(712)


def layers() -> str:
    """The three layers of the lesson, one on top of the other, and what is seen."""
    paper = Paper(
        "stage06_layers",
        "Layers on top of each other, and a whiteout",
        """A table with a column for each path, the highest layer first. Layer 3 has another etc/motd, which says three,
        and a whiteout, srv/.wh.draft. Layer 2 has srv/letter and srv/draft. Layer 1, the lowest, has bin/sh and
        etc/motd, which says one. In each column the first thing from the top counts. Seen are bin/sh of layer 1,
        etc/motd of layer 3 and srv/letter of layer 2. srv/draft is not seen, nor is the whiteout; but it is still in
        layer 2.""",
    )
    paths = [name for layer in LAYERS for name in layer if ".wh." not in name]
    columns = list(dict.fromkeys(paths))
    paper.head("Look down each column: the first counts")
    seen: dict[str, tuple[str, int]] = {}
    for column, path in enumerate(columns):
        paper.text(_column(column), 66, f"`{path}", 106, anchor="middle")
    for row, layer in enumerate(reversed(LAYERS)):
        y = 84 + row * 64
        paper.box(EDGE, y, WIDTH - 2 * EDGE, 52, (), "plain")
        paper.text(EDGE + 6, y + 31, f"*{len(LAYERS) - row}", 20)
        for column, path in enumerate(columns):
            directory, _, name = path.rpartition("/")
            if path in layer:
                counts = path not in seen
                seen.setdefault(path, (_said(layer[path]), len(LAYERS) - row))
                kind, words = ("own", f"*{_said(layer[path])}") if counts else ("shared", _said(layer[path]))
                paper.box(_column(column) - 52, y + 8, 104, 36, [words], kind)
            elif f"{directory}/.wh.{name}" in layer:
                seen[path] = "", 0
                paper.striped(_column(column) - 52, y + 8, 104, 36)
                paper.box(_column(column) - 48, y + 13, 96, 26, [f"`.wh.{name}"], "plain")
    for column, path in enumerate(columns):
        words, layer_number = seen[path]
        paper.line((_column(column), 272), (_column(column), 302), arrow=True)
        paper.box(
            _column(column) - 52, 302, 104, 52, [f"*{words}", f"of layer {layer_number}"] if words else ["nothing"]
        )
    paper.text(EDGE, 292, "*seen:", 60)
    paper.text(EDGE, 386, "Thick: seen. Dashed: covered by a layer above it.", 490)
    paper.text(EDGE, 405, "Striped: a whiteout. The draft is still in layer 2.", 490)
    return paper.svg(420)


def overlay() -> str:
    """Disposable of stage 6: what the container changes is in an upper layer, and gone with it."""
    paper = Paper(
        "stage06_overlay",
        "What a container changes, and when it is gone",
        """Two states. While the container runs: below lies the image, which was unpacked once and is only read. Above it,
        on a tmpfs that only the container's mounts have, lies the upper directory: a file that was changed, copied up
        whole, and a whiteout for one that was removed. The container sees both as one root. After its end: its table of
        mounts is gone, the tmpfs and the upper directory with it. The image is as it was, and the next container begins
        with it.""",
    )
    paper.head("What it changes is gone with it")
    paper.text(EDGE, 62, "*while the container runs", 400)
    paper.box(EDGE, 74, WIDTH - 28, 44, ["what the container sees: one root, the overlay"], "own")
    for x in (130, 390):
        paper.line((x, 118), (x, 140))
    _upper(paper, 140, gone=False)
    _lower(paper, 232)
    paper.line((EDGE, 322), (WIDTH - EDGE, 322))
    paper.text(EDGE, 346, "*after its last process has ended", 400)
    _upper(paper, 360, gone=True)
    _lower(paper, 452)
    paper.text(EDGE, 548, "The next container has the image as it was, and an", 490)
    paper.text(EDGE, 567, "upper directory with nothing in it.", 490)
    return paper.svg(582)


def _upper(paper: Paper, y: float, gone: bool) -> None:
    kind = "off" if gone else "own"
    paper.box(
        EDGE, y, WIDTH - 28, 78, [f"upper, on a tmpfs of its own{': gone with its mounts' * gone}"], kind, top=True
    )
    paper.box(40, y + 32, 210, 36, ["etc/motd, copied up"], kind if gone else "plain", gone=gone)
    if not gone:
        paper.striped(270, y + 32, 210, 36)
    paper.box(276, y + 37, 198, 26, ["srv/draft: a whiteout"], kind if gone else "plain", gone=gone)


def _lower(paper: Paper, y: float) -> None:
    paper.box(EDGE, y, WIDTH - 28, 74, ["lower, the image: only read"], "shared", top=True)
    for number, path in enumerate(("bin/sh", "etc/motd", "srv/draft")):
        paper.box(40 + number * 150, y + 30, 140, 34, [f"`{path}"])


def _column(number: int) -> float:
    return 98 + number * 113


def _said(text: str) -> str:
    return _SHOWN.get(text, f'"{text.strip()}"')


def _short(descriptor: images.Descriptor) -> str:
    """The beginning of a digest."""
    return str(descriptor["digest"])[:15] + "..."
