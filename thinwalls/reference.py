"""The names of images: which registry, which repository there, which version."""

import re
from dataclasses import dataclass

HUB = "registry-1.docker.io"  # where Docker Hub answers; people call it docker.io
_HUB_NAMES = ("docker.io", "index.docker.io", HUB)

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")  # host or host:port
_REPOSITORY = re.compile(r"(?:[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*/)*[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Reference:
    """Which image, where. `tag` or `digest` may be "", never both."""

    registry: str  # host or host:port
    repository: str  # such as library/debian
    tag: str = ""
    digest: str = ""  # such as sha256:…; where there is one, it decides, and the tag is a remark

    def __str__(self) -> str:
        """As people write it: without what parse_reference() fills in."""
        name = f"{self.registry}/{self.repository}"
        if self.registry == HUB:
            inner = self.repository.removeprefix("library/")
            name = self.repository if "/" in inner else inner
        tag = f":{self.tag}" if self.tag and (self.digest or self.tag != "latest") else ""
        return name + tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read an image's name, such as debian, debian:12, quay.io/some/thing@sha256:… or localhost:5000/x.

    What is left out is filled in as Docker does: its Hub, the Hub's library/, the tag latest (where no digest is said).
    The first part is a registry if it holds a dot or a colon or is localhost. Raises ValueError for what is no name by
    the grammar of the OCI distribution specification.
    """

    def wrong(why: str) -> ValueError:
        return ValueError(f"{shown(text)!r} is not the name of an image: {why}")

    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise wrong("after the @ comes a digest, sha256: and 64 digits of hex")
    first, slash, after = rest.partition("/")
    registry = ""
    if slash and (first == "localhost" or any(letter in first for letter in ".:[")):
        registry, rest = first, after
    name, colon, tag = rest.partition(":")
    if registry and not (REGISTRY.fullmatch(registry) and _port_of(registry) is not None):
        raise wrong(f"{shown(registry)!r} is not a host, or a host and a port")
    if not name:
        raise wrong("it has no name")
    if name != name.lower():
        raise wrong("a name is in small letters")
    if not _REPOSITORY.fullmatch(name):
        raise wrong("a name is letters and digits, with single . _ / or __ or dashes between them")
    if colon and not _TAG.fullmatch(tag):
        raise wrong("after the colon comes a tag: at most 128 letters, digits and _ . -, and no . or - first")
    if not registry and re.fullmatch(r"[0-9a-f]{64}", name):
        raise wrong("64 digits of hex are an image's id, which no registry knows")
    if registry in ("", *_HUB_NAMES):
        registry = HUB
        name = name if "/" in name else f"library/{name}"
    if len(registry) + 1 + len(name) > 255:
        raise wrong("it is longer than 255 characters")
    return Reference(registry, name, tag or ("" if digest else "latest"), digest)


def _port_of(registry: str) -> int | None:
    """The port in host:port; 0 where none is said, None where it is none."""
    port = registry.rpartition(":")[2] if re.search(r":[0-9]+$", registry) else "0"
    return int(port) if int(port) < 65536 and not (registry.endswith(":0")) else None


def shown(text: str) -> str:
    """What a stranger wrote, fit for a message: short, and nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])
