"""Stage 6, image pull: what is asked of it. How to read these tests: see the top of test_stage00_process.py.

The registry runs in the grader, beyond the learner's machine, and does what the test tells it to. What it was asked is
its own word; what lies in the store and in the tree is read from outside, by the kernel's.
"""

import functools
import gzip
import hashlib
import io
import json
import os
import re
import stat
import tarfile
import zlib
from pathlib import Path

import pytest

from thinwalls import course, rootfs
from thinwalls.host import BEYOND, GATEWAY
from thinwalls.image import INDEXES, MANIFESTS
from thinwalls.images import CONFIG, LAYER, compress
from thinwalls.registry import Registry

PULL, UNPACK, LAUNCH = "stage06_image_pull.pull", "stage06_image_pull.unpack", "stage00_process.launch"
STORE, TREE = "/srv/store", "/srv/tree"
TIME = 1_000_000_000  # when the files of the layers were made, in seconds


@pytest.mark.task("6.1")
def test_an_image_of_one_layer_is_pulled_and_runs(machine):
    word, name = machine.word(), machine.word()
    files = [
        _entry("./", "dir"),
        _entry("./srv/", "dir"),
        _entry(f"./srv/{name}", data=f"{word}\n"),
        _entry("./srv/again", "hard", to=f"./srv/{name}"),
        _entry("./srv/soft", "link", to=f"/srv/{name}"),
        _entry("./opt", "link", to="srv"),
        _entry("./opt/through", data=word),
        _entry("./no/entry/for/parents", data=word),
        _entry("./var", "link", to="/srv"),
        _entry("./var/absolute", data=word),
        _entry("./srv/twice", data="what the second entry of this name replaces"),
        _entry("./srv/twice", data=word),
        _entry("./left-out/null", "char", device=(1, 3)),
        _entry("./left-out/tty", "char", device=(5, 0)),
    ]
    with Registry(machine.listen()) as registry:
        blobs, digest = _publish(registry, f"{name}/{word}", word, [_packed(_shell() + _tar(*files))])
        machine.did("pulled an image of one layer, from a registry that asks for no token")
        _pull(machine, f"{registry.host}/{name}/{word}:{word}", digest)
    for blob, content in blobs.items():
        found = machine.runner.read(_blob(blob))
        machine.expect(
            f"the {content[0]} is in the store, as blobs/sha256/HEX",
            found == content[1],
            "it is" if found == content[1] else "other bytes are" if found else "it is not",
        )
    machine.did("unpacked it, and launched its /bin/sh behind stage 3's Filesystem()")
    _unpack(machine, digest, why=WAYS)
    machine.mkdir("/srv/after")  # by then all that unpack() had printed has come
    told = [
        line for line in machine.printed.splitlines() if all(f"left-out/{each}" in line for each in ("null", "tty"))
    ]
    machine.expect(
        "one line names the device files that were left out",
        len(told) == 1,
        "one does" if len(told) == 1 else f"{len(told)} do" if told else "none does",
        "place() notes their names in self.skipped; unpack() prints them at the end, on the standard error",
    )
    machine.rootfs = TREE
    machine.call(LAUNCH, machine.probe(), [machine.made("stage03_mount_namespace.Filesystem", TREE)])
    probe = machine.meet()
    for path in (f"/srv/{name}", "/srv/again", "/srv/soft"):
        said = probe.ask(f"read -r line <{path} && echo $line || echo nothing")
        machine.expect(f"it reads the image's {path.replace(name, 'NAME')}", said == word, said)
    probe.tell("exit 0")
    machine.outcome()
    for path in ("/srv/through", "/no/entry/for/parents", "/srv/absolute", "/srv/twice"):
        found = machine.runner.read(TREE + path)
        machine.expect(
            f"{path} says {word}, as in the layer",
            found == word.encode(),
            "there is no such file" if found is None else f"it says {found[:80].decode(errors='replace')}",
            next(words for piece, words in WAYS.items() if piece in path),
        )
    one, two = (machine.runner.look(f"{TREE}/srv/{each}", follow=False) for each in (name, "again"))
    same = one is not None and two is not None and os.path.samestat(one, two)
    machine.expect(
        "the hard link /srv/again is one more name of the file that it leads to",
        same,
        "it is" if same else f"it is {_looks(machine, TREE, 'srv/again') if two else 'not there'}",
        WAYS["srv/again"],
    )


@pytest.mark.task("6.2")
def test_a_token_is_fetched_and_a_password_goes_nowhere_else(machine):
    user, password = machine.word(), machine.word() + ':"\\'
    _parses(machine, machine.word())
    for title, credentials in (("anybody gets", None), ("needs a password", (user, password))):
        with Registry(machine.listen(), token=True, credentials=credentials) as registry:
            _, digest = _publish(
                registry, "some/thing", "x", [_packed(_tar(_entry("a", data=machine.random.randbytes(300_000))))]
            )
            registry.misbehave("/v2/*/blobs/*", "expired")
            registry.misbehave("/v2/*/blobs/*", "truncate", at=200_000)
            machine.did(f"pulled from a registry with a token that {title}, which expired on the way")
            machine.call(
                PULL,
                f"{registry.host}/some/thing:x",
                STORE,
                _transport(machine),
                list(credentials) if credentials else None,
            )
            outcome = machine.outcome()
            told = [each for each in registry.requests if each.path.partition("?")[0] != "/token" and _basic(each)]
            machine.expect(
                "the password goes to the realm alone",
                not told,
                f"it was sent with the request for {told[0].path} too" if told else "it does",
                "self.token is for all requests: it has the token, by the scheme Bearer, and never the password",
            )
            unknown = "wrong user or password" in str(outcome.error("text"))
            _gives(machine, outcome, digest, SHOWN if unknown else TOKEN)
            asked = len(registry.asked("/token"))
            machine.expect(
                "a token is used until it is refused",
                2 <= asked <= 6,
                f"{asked} tokens were fetched",
                "self.token stays what authorize() has made it, until the next refusal",
            )
    with Registry(machine.listen(), token=True) as registry:
        _publish(registry, "some/thing", "z", [_packed(_tar(_entry("c", data=machine.word())))])
        registry.misbehave("/v2/*/blobs/*", "expired", 10**9)
        machine.did("pulled from a registry for whose blobs no token is ever good enough")
        machine.call(PULL, f"{registry.host}/some/thing:z", STORE, _transport(machine))
        outcome = machine.outcome()
        machine.expect("it raises Refused", outcome.raised == "Refused", outcome, "ask once more, not for ever")
    with Registry(machine.listen(), token=True, credentials=("a", "b")) as registry:
        _publish(registry, "some/thing", "x", [_packed(_tar(_entry("a")))])
        machine.did("pulled with a wrong password")
        machine.call(PULL, f"{registry.host}/some/thing:x", STORE, _transport(machine), (user, password))
        outcome = machine.outcome()
        machine.expect("it raises Refused", outcome.raised == "Refused", outcome, "ask once more, not for ever")
    _refused_for_nothing(machine)
    _redirected(machine)
    with Registry(machine.listen()) as registry, Registry(machine.listen(), credentials=("x", "y")) as other:
        _publish(registry, "some/thing", "y", [_packed(_tar(_entry("b", data=machine.word())))])
        registry.misbehave("/v2/*/blobs/*", "redirect", 100, to=other.url)
        machine.did("pulled from a registry that redirects to another host, which asks for a token of its own realm")
        machine.call(PULL, f"{registry.host}/some/thing:y", STORE, _transport(machine), (user, password))
        outcome = machine.outcome()
        machine.expect("it raises Refused", outcome.raised == "Refused", outcome)
        machine.expect(
            "the other host's realm is not asked at all",
            not other.asked("/token"),
            "it is asked" if other.asked("/token") else "it is not",
            "refused.url says whose answer it is: where it is not the registry's own host, raise refused",
        )
        _shown_nothing(machine, other)
    _realms(machine, user, password)


@pytest.mark.task("6.3")
def test_an_index_leads_to_the_manifest_of_the_platform(machine):
    platforms = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/riscv64", "windows/amd64"]
    machine.random.shuffle(platforms)
    for media in machine.random.sample(["oci", "docker"], 2):
        with Registry(machine.listen()) as registry:
            found = {}
            for where in platforms:
                found[where] = registry.add_image(
                    "a/b", "", [_tar(_entry(machine.word()))], media=media, platform=where
                )
            other = {**found["linux/riscv64"], "platform": {"os": "unknown", "architecture": "unknown"}}
            registry.add_index("a/b", "x", [other, *found.values()], media)
            first_arm = next(where for where in platforms if where.startswith("linux/arm/"))
            for wanted, right in {
                "linux/arm/v7": "linux/arm/v7",
                "linux/arm/v6": "linux/arm/v6",
                "linux/arm": first_arm,
                "linux/arm64": "linux/arm64/v8",
                "linux/arm64/v8": "linux/arm64/v8",
                "windows/amd64": "windows/amd64",
                "": "linux/" + {"x86_64": "amd64", "aarch64": "arm64/v8"}[os.uname().machine],
            }.items():
                machine.did(f"pulled from an index of {media} for {wanted or 'this machine'}")
                machine.call(PULL, f"{registry.host}/a/b:x", STORE, _transport(machine), None, wanted)
                outcome = machine.outcome()
                given = [where for where, each in found.items() if each["digest"] == outcome.returned]
                machine.expect(
                    f"pull() gives the digest of the manifest for {right}",
                    given == [right],
                    f"it gives that for {given[0]}" if given else outcome,
                    "one fits if its platform has all the parts that were asked for, a variant too; of several that fit"
                    " it is the first",
                )
            machine.did("pulled for a platform that is not there")
            machine.call(PULL, f"{registry.host}/a/b:x", STORE, _transport(machine), None, "plan9/mips")
            outcome = machine.outcome()
            named = outcome.raised == "BadImage" and "riscv64" in str(outcome.error("text"))
            machine.expect("it raises BadImage, which names those that are there", named, outcome)
            both = {"schemaVersion": 2, "manifests": [found["linux/amd64"]], "layers": []}
            registry.add_manifest("a/b", "both", both, machine.random.choice(INDEXES))
            machine.did("pulled what is an index and a manifest at once")
            machine.call(PULL, f"{registry.host}/a/b:both", STORE, _transport(machine), None, "linux/amd64")
            outcome = machine.outcome()
            machine.expect(
                "it raises BadImage",
                outcome.raised == "BadImage",
                outcome,
                "it has layers as well, an empty list of them: others might take it for a manifest",
            )
            registry.add_manifest(
                "a/b", "none", {"schemaVersion": 2, "manifests": None}, machine.random.choice(INDEXES)
            )
            machine.did("pulled an index that has no list of manifests, but null")
            machine.call(PULL, f"{registry.host}/a/b:none", STORE, _transport(machine))
            outcome = machine.outcome()
            machine.expect(
                "it raises BadImage",
                outcome.raised == "BadImage",
                outcome,
                "there is no list of manifests: that is one with nothing for anybody",
            )


@pytest.mark.task("6.4")
def test_nothing_gets_into_the_store_but_what_it_is_called(machine):
    wrongs = [("the layer", 0, "wrong", {}), ("the layer", 0, "truncate", {"at": 1000}), ("the config", 1, "wrong", {})]
    wrongs += [("the layer", 0, "wrong", {"body": machine.random.randbytes(9_000)}), ("the manifest", 2, "wrong", {})]
    wrongs += [("the layer", 0, "endless", {})]
    for what, which, kind, how in machine.random.sample(wrongs, len(wrongs)):
        with Registry(machine.listen()) as registry:
            blobs, digest = _publish(
                registry,
                "a/b",
                "",
                [_packed(_tar(_entry("a", data=machine.random.randbytes(5000))))],
                {"User": machine.word()},
            )
            path = f"/v2/*/{'manifests' if which == 2 else 'blobs'}/{list(blobs)[which]}"
            registry.misbehave(path, kind, 100, **how)
            sends = {"wrong": "other bytes", "truncate": "too few bytes", "endless": "bytes without end"}[kind]
            machine.did(f"pulled an image by its digest; for {what} the registry sends {sends}")
            machine.call(PULL, f"{registry.host}/a/b@{digest}", STORE, _transport(machine))
            outcome = machine.outcome()
            expected = ("BadImage", "TransportError")
            machine.expect(
                f"it raises {' or '.join(expected)}",
                outcome.raised in expected,
                outcome,
                "whoever reads to the end before he looks at the size never gets there"
                if kind == "endless"
                else "what came is what was asked for if its sha256 is the digest: as many bytes are easily had",
            )
            _sound(machine)
            left = machine.settles(lambda: _unfinished(machine))
            machine.expect(
                "nothing unfinished is left in the store",
                not left,
                ", ".join(left) or "nothing",
                "what could not be finished is removed: in a finally",
            )
            registry.faults.clear()
            machine.did("pulled it again, now that the registry sends what it should")
            _pull(machine, f"{registry.host}/a/b@{digest}", digest)
            _sound(machine, *blobs)
            before = len(registry.requests)
            machine.did("pulled it a third time")
            _pull(machine, f"{registry.host}/a/b@{digest}", digest)
            asked = [blobs[each.path.rpartition("/")[2]][0] for each in registry.requests[before:]]
            machine.expect(
                "nothing is asked for: all is there",
                not asked,
                f"it asked for the {', the '.join(sorted(asked))}" if asked else "it asked for nothing",
                "what is stored() under its digest is not asked for again, nor is the manifest",
            )
    _of_another(machine)
    _two_at_once(machine)
    with Registry(machine.listen()) as registry:
        manifest = {"schemaVersion": 2, "mediaType": MANIFESTS[0], "layers": []}
        config = {"mediaType": CONFIG["oci"], "digest": f"sha256:../../../{machine.word()}", "size": 1}
        registry.add_manifest("a/b", "x", {**manifest, "config": config})
        machine.did("pulled an image whose config has a path for a digest")
        machine.call(PULL, f"{registry.host}/a/b:x", STORE, _transport(machine))
        outcome = machine.outcome()
        machine.expect("it raises BadImage", outcome.raised == "BadImage", outcome)
        blobs, digest = _publish(
            registry, "a/b", "y", [_packed(_tar(_entry("a", data=machine.random.randbytes(5000))))]
        )
        registry.misbehave(f"/v2/*/blobs/{next(iter(blobs))}", "stall", at=1000)
        machine.did("killed a pull in the middle of a layer")
        machine.call(PULL, f"{registry.host}/a/b:y", STORE, _transport(machine), apart=True)
        machine.settles(lambda: not registry.asked(f"*/blobs/{next(iter(blobs))}"), 5)
        machine.linger(0.05)
        for process in machine.left():
            machine.send(process, 9)
        machine.outcome()
        _sound(machine)
        machine.did("pulled it again, after that")
        _pull(machine, f"{registry.host}/a/b:y", digest)
        _sound(machine, *blobs)
        found = registry.add_image("a/b", "", [_tar(_entry(machine.word()))], platform="linux/amd64")
        registry.add_index("a/b", "z", [{**found, "size": found["size"] + 1}], "oci")
        machine.did("pulled from an index that says another size of a manifest than it has")
        machine.call(PULL, f"{registry.host}/a/b:z", STORE, _transport(machine), None, "linux/amd64")
        outcome = machine.outcome()
        machine.expect("it raises BadImage", outcome.raised == "BadImage", outcome, "the size has to be right as well")


@pytest.mark.task("6.5")
def test_a_layer_adds_replaces_and_hides(machine):
    a, b = machine.word(), machine.word()
    below = [
        _entry("./", "dir", mode=0o751),
        _entry("bin", "link", to="usr/bin"),
        *(
            _entry(f"{name}/", "dir", mode=0o750)
            for name in ("usr", "usr/bin", "gone", "gone/deep", "kept", "half", "opaque", "swap")
        ),
        *(
            _entry(name, data=a)
            for name in (
                "usr/bin/old",
                "usr/bin/stays",
                "half/old",
                "gone/deep/file",
                "kept/old",
                "kept/new",
                "opaque/old",
                "file",
                "swap/x",
            )
        ),
        _entry("opaque/sub/", "dir"),
        _entry("opaque/sub/old", data=a),
        _entry("linked", "link", to="file"),
    ]
    top = [
        _entry("opaque/before", data=b),
        _entry("opaque/.wh..wh..opq"),
        _entry("opaque/sub/new", data=b),
        _entry(".wh.gone"),
        _entry("half/new", data=b),
        _entry(".wh.half"),
        _entry("kept/new", data=b),
        _entry("kept/.wh.new"),
        _entry("kept/.wh.old"),
        _entry("kept/.wh.never-there"),
        _entry("bin/new", data=b, mode=0o4755),
        _entry("usr/bin/.wh.old"),
        _entry("linked", data=b, mode=0o600, attributes={"user.word": a, "user.overlay.opaque": "y"}),
        _entry("file/", "dir", mode=0o1777),
        _entry("swap", "link", to="kept"),
        _entry("usr/bin/hard", "hard", to="bin/new"),
        _entry("pipe", "fifo", mode=0o622),
        _entry("usr/bin/.wh..wh.plnk"),
    ]
    for packing in machine.random.sample(["none", "gzip", "zstd"] if _zstd() else ["none", "gzip"], 2):
        tree = f"/srv/{machine.word()}"
        digest = _store(machine, [_tar(*below), _tar(*top)], packing)
        machine.did(f"unpacked two layers, compression {packing}")
        machine.setenv("HOME", "/")
        before = len(machine.runner.descriptors())
        _unpack(machine, digest, tree)
        more = len(machine.runner.descriptors()) - before
        machine.expect(
            "unpack() leaves no descriptor open",
            more <= 0,
            f"{more} more are open" if more > 0 else "none more is open",
            "locate() closes the one that it gives, at the end of the `with`",
        )
        found = {path: _looks(machine, tree, path) for path in _paths(machine, tree)}
        for path, what in {
            "opaque/old": None, "opaque/sub/old": None,
            "opaque/before": _file(644, b), "opaque/sub/new": _file(644, b),
            "half/old": None, "half/new": _file(644, b), "usr/bin/stays": _file(644, a),
            "gone": None, "gone/deep": None, "kept/old": None, "kept/new": _file(644, b), "usr/bin/old": None,
            "bin": "a link to usr/bin", "usr/bin/new": _file(4755, b), "usr/bin/hard": _file(4755, b),
            "linked": _file(600, b), "swap": "a link to kept", "pipe": "a FIFO of mode 622",
            "file": "a directory of mode 1777", "usr": "a directory of mode 750", "": "a directory of mode 751",
        }.items():  # fmt: skip
            machine.expect(
                f"{path or 'the root'} is {what or 'not there'}",
                found.get(path) == what,
                f"it is {found.get(path) or 'not there'}",
                MISTAKES.get(path, MISTAKES["mode"] if what else MISTAKES["gone"]),
            )
        odd = [path for path in found if ".wh." in path]
        machine.expect("no whiteout is a file in the tree", not odd, ", ".join(odd) or "none")
        for path in ("usr/bin/new", "usr", "kept", "linked", "opaque"):
            time = machine.runner.look(f"{tree}/{path}", follow=False).st_mtime
            machine.expect(
                f"the time of {path} is that in the layer, {TIME}", time == TIME, f"{time:.0f}", MISTAKES["time"]
            )
        given = machine.runner.attribute(f"{tree}/linked", "user.word")
        if machine.reference is None and given is None:
            machine.lacks.append("attributes")  # tmpfs has them since Linux 6.6
        if "attributes" not in (machine.reference or machine).lacks:
            kept = (
                "dirfd.set_attributes(), with what layers.attributes() gives: it leaves out what overlayfs would obey"
            )
            said = "it has none of that name" if given is None else f"it says {given.decode(errors='replace')}"
            machine.expect(f"linked has the attribute user.word, which says {a}", given == a.encode(), said, kept)
            given = machine.runner.attribute(f"{tree}/linked", "user.overlay.opaque")
            none = given is None
            machine.expect("it has none of overlayfs's own", none, "none" if none else "user.overlay.opaque", kept)


@pytest.mark.task("6.6")
def test_a_hostile_layer_is_refused_and_writes_nothing_outside(machine):
    outside, word = f"/srv/{machine.word()}", machine.word()
    machine.plant(f"{outside}/victim", word)
    up = "../" * 6
    evil = {
        "a name with ..": [_entry(f"{up}{outside[1:]}/{word}", data=word)],
        "a name with .. in the middle": [_entry("a/", "dir"), _entry(f"a/../../../{outside[1:]}/{word}", data=word)],
        "an absolute name": [_entry(f"{outside}/{word}", data=word)],
        "a file through a link to the outside": [_entry("a", "link", to=outside), _entry(f"a/{word}", data=word)],
        "a file through a link upward": [_entry("a", "link", to=f"{up}{outside[1:]}"), _entry(f"a/{word}", data=word)],
        "a hard link to the outside": [_entry(word, "hard", to=f"{up}{outside[1:]}/victim")],
        "a hard link to an absolute path": [_entry("a", data=word), _entry(word, "hard", to="/a")],
        "a hard link to a path with ..": [_entry("b", data=word), _entry(word, "hard", to="./../b")],
        "a hard link through a link": [_entry("a", "link", to=outside), _entry(word, "hard", to="a/victim")],
        "a whiteout through a link": [_entry("a", "link", to=outside), _entry("a/.wh.victim")],
        "a whiteout of ..": [_entry(".wh...")],
        "a whiteout of nothing": [_entry("a/", "dir"), _entry("a/.wh.")],
        "a whiteout of .": [_entry("a/", "dir"), _entry("a/.wh..")],
        "a block device": [_entry(f"dev/{word}", "block", device=(8, 0))],
        "the kernel's memory": [_entry("dev/null", "char", device=(1, 1))],
        "a root that is a link": [_entry("./", "link", to=outside)],
        "a size that exceeds the limit": [_entry(word, data=b"\0" * 700_000), _entry(f"{word}2", data=b"\0" * 700_000)],
        "more entries than the limit": [_entry(f"{word}{number}") for number in range(60)],
    }  # fmt: skip
    limits = machine.made("thinwalls.image.Limits", 1_000_000, 50)
    for title in machine.random.sample(list(evil), len(evil)):
        tree = f"/srv/trees/{machine.word()}"
        digest = _store(machine, [_tar(*evil[title])], "gzip")
        machine.did(f"unpacked a layer with {title}")
        machine.mkdir(tree)
        machine.call(UNPACK, STORE, digest, tree, limits)
        outcome = machine.outcome()
        name = evil[title][-1][0].name if "entries" not in title else word
        named = outcome.raised == "BadImage" and name in str(outcome.error("text"))
        machine.expect(
            "unpack() raises BadImage, with the name of the entry",
            named,
            outcome,
            next(words for beginning, words in BLAME.items() if title.startswith(beginning)),
        )
        names, content = machine.runner.names(outside) or [], machine.runner.read(f"{outside}/victim")
        machine.expect(
            "outside nothing is written or removed",
            names == ["victim"] and content == word.encode() and machine.runner.look(f"{outside}/victim").st_nlink == 1,
            f"there is {' and '.join(sorted(names)) or 'nothing'}, and victim says "
            f"{(content or b'nothing').decode(errors='replace')}",
            "the directory of an entry has to be opened inside the rootfs: linux.open_in_root",
        )
        there = os.path.basename(tree) in (machine.runner.names("/srv/trees") or [])
        machine.expect(
            "the directory that it was unpacked in is still there",
            there,
            "it is there" if there else "it was removed, and so was what lay beside it",
            BLAME["a whiteout of"],
        )
        size = sum((machine.runner.look(f"{tree}/{path}", follow=False).st_size for path in _paths(machine, tree)), 0)
        machine.expect("no more is written than the limit allows", size <= 1_200_000, f"{size} bytes", _COUNTED)
    tree = f"/srv/trees/{machine.word()}"
    machine.did("unpacked links that a later entry replaces, and devices that every container has")
    entries = [
        _entry("dev/", "dir"),
        _entry("dev/null", "char", device=(1, 3)),
        _entry("dev/console", "char", device=(5, 1)),
    ]
    entries += [_entry("a", "link", to=f"{outside}/victim"), _entry("b", "hard", to="a")]
    entries += [_entry("a", data=machine.word()), _entry(".wh.a..b")]
    honest = f"{_WALKED}; a name may have two dots in it; a device file of DEFAULT_DEVICES is left out, not refused"
    _unpack(machine, _store(machine, [_tar(*entries)], "gzip"), tree, honest)
    same = machine.runner.read(f"{outside}/victim") == word.encode()
    machine.expect(
        "a link is replaced, not written through: what it leads to is as it was",
        same,
        "it is" if same else "it says something else",
        "what was there under the name goes first: dirfd.make_room; and O_EXCL makes a file, or nothing",
    )
    names = machine.runner.look(f"{outside}/victim").st_nlink
    machine.expect(
        "a hard link to a link is one more name of the link, not of what that leads to outside",
        names == 1,
        f"the file outside has {names} names",
        "os.link() follows, if it is not told follow_symlinks=False",
    )
    left = machine.runner.names(f"{tree}/dev") or []
    machine.expect("the devices are left out", not left, ", ".join(left) or "none is there")
    most = [_entry(f"{word}{number}", data=b"\0" * 20_000) for number in range(50)]
    machine.did("unpacked two layers that have together as many entries, and bytes, as the limits allow")
    digest = _store(machine, [_tar(*most[:20]), _tar(*most[20:])], "gzip")
    _unpack(machine, digest, f"{tree}-full", "more than that is too much, as many are not", limits=[limits])
    machine.did("unpacked two layers that have together one entry more")
    digest = _store(machine, [_tar(*most[:20]), _tar(*most[20:], _entry(f"{word}50"))], "gzip")
    machine.mkdir(f"{tree}-fuller")
    machine.call(UNPACK, STORE, digest, f"{tree}-fuller", limits)
    outcome = machine.outcome()
    machine.expect(
        "unpack() raises BadImage, with the name of the entry that is one too many",
        outcome.raised == "BadImage" and word in str(outcome.error("text")),
        outcome,
        "the limits are for all layers together: what has been counted is not forgotten at the next",
    )


@pytest.mark.task("6.7")
def test_the_image_says_what_runs(machine):
    machine.mkdir(TREE)
    home, word, uid = f"/{machine.word()}", machine.word(), machine.random.randint(1000, 9000)
    passwd = f"root:x:0:0::/root:/bin/sh\n{word}:x:{uid}:{uid + 1}::{home}:/bin/sh\n"
    passwd += "odd:x:4294967295:0::/:/bin/sh\n77:x:0:5::/77:\n"
    machine.plant(f"{TREE}/etc/passwd", passwd)
    machine.plant(f"{TREE}/etc/group", f"root:x:0:\nmany:x:{uid + 7}:{word},root\nx:x:{uid + 9}:a{word}\n")
    for user, right in {
        "": _who(0, 0, uid + 7, "/root"),
        "root": _who(0, 0, uid + 7, "/root"),
        word: _who(uid, uid + 1, uid + 7, home),
        f"{uid}": _who(uid, uid + 1, uid + 7, home),
        f"{word}:many": _who(uid, uid + 7, "none", home),
        f"{uid + 3}:5": _who(uid + 3, 5, "none", "/"),
        "77": _who(77, 0, "none", "/"),
    }.items():
        machine.did(f"asked find_user() for {user!r}")
        machine.call("stage06_image_pull.find_user", user, TREE)
        outcome = machine.outcome()
        yours = _told(outcome)
        machine.expect(
            f"it gives {right}",
            yours == right,
            yours,
            "this user is in the file, or is a number; in a line that is another user's a number may be as odd as it likes"
            if outcome.raised == "BadImage"
            else "what is all digits is a number, never a name; other groups are those whose line lists the user's name,"
            " and none where a group is given",
        )
    for user in (
        "4294967295",
        "4294967296",
        "-1",
        "+0",
        " 0",
        "0x0",
        "1_0",
        "٣",
        "nobody-here",
        f"{word}:",
        ":0",
        "0:none",
        "0:4294967296",
        "odd",
    ):
        machine.did(f"asked find_user() for {user!r}")
        machine.call("stage06_image_pull.find_user", user, TREE)
        outcome = machine.outcome()
        machine.expect(
            "it raises BadImage",
            outcome.raised == "BadImage",
            _told(outcome),
            "that is no id, in the files neither: 4294967295 would change nothing, and what is more may wrap around to 0"
            if "42949672" in user or user == "odd"
            else "a name has to be in the file, and a number is the digits 0 to 9, and no more: int() takes more than that",
        )
    secret = machine.word()
    machine.plant("/etc/passwd", f"{secret}:x:0:0::/:/bin/sh\n")
    machine.plant("/srv/other/place", "")
    machine.link("/srv/other/etc", "/etc")
    machine.did("asked find_user() for a user that the machine has, of an image whose /etc is a link to /etc")
    machine.call("stage06_image_pull.find_user", secret, "/srv/other")
    outcome = machine.outcome()
    machine.expect(
        "it raises BadImage",
        outcome.raised == "BadImage",
        _told(outcome),
        "a path of the machine goes where the image's link leads: lines_of(), or linux.open_in_root, stays inside",
    )
    machine.did("asked program() for an image without entrypoint and command, and gave none")
    machine.call("stage06_image_pull.program", machine.made("thinwalls.image.Image"), TREE)
    outcome = machine.outcome()
    machine.expect("it raises BadImage", outcome.raised == "BadImage", outcome, "there is nothing to run")

    shell = machine.shell()
    for title, config, command in (
        ("entrypoint and command", {"Entrypoint": shell[:1], "Cmd": shell[1:]}, []),
        ("entrypoint, and another command", {"Entrypoint": shell[:2], "Cmd": ["exit 9"]}, shell[2:]),
        ("command alone", {"Entrypoint": None, "Cmd": shell}, []),
    ):
        digest = _store(
            machine, [_tar()], "gzip", {**config, "Env": [f"A={word}=x", "B=image"], "WorkingDir": "/tmp", "User": word}
        )
        machine.did(f"launched the program() of an image with {title}, and B=given")
        image = machine.called("thinwalls.image.read_image", STORE, digest)
        program = machine.called("stage06_image_pull.program", image, TREE, command, {"B": "given"})
        machine.call(LAUNCH, program, [])
        probe = machine.meet(
            maybe="the entrypoint, followed by the command that is given, or by the image's own if none is"
        )
        env = {"A": f"{word}=x", "B": "given", "HOME": home}
        found = probe.process.environ()
        for name, value in env.items():
            machine.expect(
                f"its {name} is {value}",
                found.get(name) == value,
                found.get(name, "it has none"),
                "what is given counts most, then what the image says, then PATH of DEFAULT_ENV and the user's home",
            )
        path = found.get("PATH", "")
        machine.expect("it has a PATH with /bin in it", "/bin" in path.split(":"), path or "it has none")
        more = sorted(found.keys() - env.keys() - {"PATH"})
        machine.expect("it has nothing of your own environment", not more, ", ".join(more) or "nothing")
        cwd = "it is" if probe.process.cwd() == machine.file("/tmp") else "it is another"
        machine.expect("it starts in /tmp", cwd == "it is", cwd, "a Program's third argument is where: the image's cwd")
        probe.tell("exit 0")
        machine.outcome()


@pytest.mark.task("6.8")
def test_the_same_image_twice_is_the_same(machine):
    place, word, name = f"/srv/{machine.word()}", machine.word(), machine.word()
    odd = f"/srv/a,b:{name}"
    machine.call(
        "stage00_process.run", machine.program(["sh", "-c", f"cp -a {machine.rootfs} {odd} && chmod 711 {odd}"])
    )
    machine.outcome()
    machine.plant(f"{odd}/etc/{name}", word)
    machine.mkdir(place)
    machine.share_mounts()
    before = _paths(machine, odd)
    for title, root in (("first", "stage03_mount_namespace.Filesystem"), ("second", "stage01_chroot.Root")):
        name_of = root.partition(".")[2]
        machine.did(f"launched the {title} shell behind Disposable() and {name_of}(), which changes and makes files")
        walls = [machine.made("stage06_image_pull.Disposable", odd, place), machine.made(root, place)]
        machine.call(LAUNCH, machine.probe(), walls)
        probe = machine.meet(
            maybe="a path with a comma or a colon in it would end there, in the options: /proc/self/fd/NUMBER has neither;"
            " and upper and work are two directories, beside each other on one mount"
        )
        said = probe.ask(f"read -r line </etc/{name}; echo $line")
        machine.expect("it finds what the image has", said == word, said)
        said = probe.ask("[ -e /etc/made ] && echo there || echo gone")
        machine.expect(
            "it finds nothing of another's", said == "gone", said, "the upper directory has to end with the container"
        )
        mode = stat.S_IMODE(probe.process.look("/").st_mode)
        machine.expect(
            "its / has the image's mode, 711", mode == 0o711, f"{mode:o}", "the root is the upper directory's"
        )
        kind = next((mount.fstype for mount in probe.process.mounts() if mount.point == "/"), "none")
        machine.expect("its / is an overlay", kind == "overlay", kind)
        done = probe.ask(f"(echo x >/etc/made && echo y >/etc/{name} && mkdir /new && echo done) 2>&- || echo refused")
        machine.expect("it can change what it likes", done == "done", done)
        probe.tell("exit 0")
        machine.outcome()
        same = _paths(machine, odd) == before and machine.runner.read(f"{odd}/etc/{name}") == word.encode()
        machine.expect("the image is as it was", same, "it is" if same else "it is changed")
        left = [mount.point for mount in machine.runner.mounts() if mount.point.startswith("/srv/")]
        machine.expect(
            "no mount of it is seen on the machine",
            not left,
            f"{len(left)} at {', '.join(sorted(set(left)))}" if left else "none is",
            "keep_mounts_private() comes before the first mount; and the class's flags ask for CLONE_NEWNS: Root()'s do not",
        )
        left = machine.runner.names(place)
        machine.expect("nothing is left at its root", left == [], ", ".join(left or []) or "nothing")


@pytest.mark.task("6.9")
def test_other_bytes_for_the_same_digest(machine):
    word, name, lie = machine.word(), machine.word(), machine.word()
    honest = f"#!/bin/sh\necho {word}\n# {machine.random.randbytes(600).hex()}\n"
    files = [_entry(f"./bin/{name}", data=honest, mode=0o755), _entry("./also", data=word)]
    with Registry(machine.listen()) as registry:
        blobs, digest = _publish(registry, "a/b", "x", [_packed(_shell() + _tar()), _packed(_tar(*files))])
        machine.did("had the reference's pull() fetch an image of two layers, and called forge() with the second")
        machine.call("reference." + PULL, f"{registry.host}/a/b:x", STORE, _transport(machine))
        machine.outcome()
        layer = list(blobs)[1]
        machine.call("stage06_image_pull.forge", _blob(layer), "/srv/forged", f"bin/{name}", f"#!/bin/sh\necho {lie}\n")
        outcome = machine.outcome()
        forged, real = machine.runner.read("/srv/forged") or b"", blobs[layer][1]
        machine.expect("there is a forged layer", bool(forged), "there is one" if forged else outcome)
        machine.expect(
            f"it has as many bytes as the layer, {len(real)}",
            len(forged) == len(real),
            len(forged),
            "a header of gzip has room for what says nothing",
        )
        machine.expect("its bytes are others", forged != real, "they are" if forged != real else "they are the same")
        whole = _one_member(forged)
        machine.expect(
            "it is one gzip member, with nothing behind it",
            whole == "it is",
            whole,
            "what is behind the end is another member, or an error to other readers: padding belongs into the header",
        )
        machine.did("called forge() with more to say than the layer has room for")
        machine.plant("/srv/small", _packed(_tar(*files)))
        text = machine.random.randbytes(5000).hex()
        machine.call("stage06_image_pull.forge", "/srv/small", "/srv/long", f"bin/{name}", text)
        outcome = machine.outcome()
        machine.expect(
            "it raises ValueError: that does not fit",
            outcome.raised == "ValueError",
            outcome,
            "compressed, it may be longer than the layer is: then there is no room to fill",
        )
        registry.misbehave(f"/v2/*/blobs/{layer}", "wrong", 100, body=forged)
        victim = course.stub(course.reference(course.stage("06")), only=frozenset({"6.4"}))
        machine.plant("/course/reference/stage06_gullible.py", victim)
        machine.did("had a puller that does not verify fetch the image from a registry that sends the forged layer")
        machine.call("reference.stage06_gullible.pull", f"{registry.host}/a/b:x", "/srv/other", _transport(machine))
        machine.outcome()
        machine.mkdir(TREE)
        machine.call("reference.stage06_gullible.unpack", "/srv/other", digest, TREE)
        outcome = machine.outcome()
        machine.expect("it unpacks", outcome.returned is None, outcome, "it has to be a layer still")
        machine.rootfs = TREE
        machine.call("reference." + LAUNCH, machine.probe(), [machine.made("reference.stage01_chroot.Root", TREE)])
        probe = machine.meet()
        text = machine.runner.read(f"{TREE}/bin/{name}") or b""
        exact = text == f"#!/bin/sh\necho {lie}\n".encode()
        machine.expect(
            f"the file /bin/{name} is the text that forge() was given, and no more",
            exact,
            "it is" if exact else f"it is {text[:80].decode(errors='replace')!r}",
        )
        for what, line, right in (
            (f"/bin/{name} says {lie}, which is the text that forge() was given", f"/bin/sh /bin/{name}", lie),
            (f"the other file still says {word}", "read -r line </also; echo $line", word),
        ):
            said = probe.ask(line)
            machine.expect(what, said == right, said, "all entries of the layer are there, and one has another text")
        probe.tell("exit 0")
        machine.outcome()
        machine.did("had the reference's pull() fetch it, into an empty store")
        machine.call("reference." + PULL, f"{registry.host}/a/b:x", "/srv/third", _transport(machine))
        outcome = machine.outcome()
        machine.expect("it raises BadImage", outcome.raised == "BadImage", outcome)


@pytest.mark.task("6.10")
def test_files_belong_to_others_and_so_does_the_program(machine):
    uid, gid, other = machine.random.sample(range(1000, 60000), 3)
    machine.did("unpacked a layer whose files belong to others")
    entries = [
        _entry("home/", "dir", owner=(uid, gid)),
        _entry("home/set", data="x", mode=0o6755, owner=(uid, gid)),
        _entry("home/link", "link", to="/home", owner=(uid, other)),
        _entry("far", data="x", mode=0o640, owner=(2_000_000_000, 5)),
    ]
    _unpack(machine, _store(machine, [_tar(*entries)], "none"))
    ids = machine.runner.id_map()
    inside = lambda number: next((f"{i + number - o}" for i, o, n in ids if o <= number < o + n), "nobody")  # noqa: E731
    for path, owner in {"home": (uid, gid), "home/set": (uid, gid), "home/link": (uid, other), "far": (0, 0)}.items():
        found = machine.runner.look(f"{TREE}/{path}", follow=False)
        machine.expect(f"{path} is there", found is not None, "it is" if found else "it is not")
        for what, number, right in (("user", found.st_uid, owner[0]), ("group", found.st_gid, owner[1])):
            if path != "far" or what == "user":
                machine.expect(
                    f"{path} belongs to the {what} {right}",
                    inside(number) == str(right),
                    inside(number),
                    "place() has to call own(), which gives a link itself to its owner, not what it points to",
                )
    mode = stat.S_IMODE(machine.runner.look(f"{TREE}/home/set").st_mode)
    machine.expect(
        "home/set is set-uid (mode 6755)", mode == 0o6755, f"{mode:o}", "chown takes set-uid bits away: chmod after it"
    )
    for number in machine.random.sample([2**32 - 1, 2**32, -1], 3):
        for what, owner in (("user", (number, 0)), ("group", (0, number))):
            machine.did(f"unpacked a layer with a file of the {what} {number}, which is nobody's id")
            digest, tree = _store(machine, [_tar(_entry("x", owner=owner))], "gzip"), f"/srv/{machine.word()}"
            machine.mkdir(tree)
            machine.call(UNPACK, STORE, digest, tree)
            outcome = machine.outcome()
            machine.expect(
                "unpack() raises BadImage",
                outcome.raised == "BadImage",
                outcome,
                "chown(2) takes nobody's id for no change, and the file would be root's",
            )

    machine.plant(f"{machine.rootfs}/etc/passwd", f"who:x:{uid}:{gid}::/home:/bin/sh\n")
    machine.plant(f"{machine.rootfs}/etc/group", f"one:x:{other}:who\n")
    for user, (ruid, rgid, groups) in {"who": (uid, gid, [other]), f"{other}:{gid}": (other, gid, [])}.items():
        machine.did(f"launched a shell behind Filesystem(), Init() and User() of an image whose user is {user}")
        image = machine.made("thinwalls.image.Image", user=user)
        names = ("stage02_pid_namespace.Pids", "stage02_pid_namespace.Init")
        pids, init = (machine.made(name) for name in names)
        walls = [pids, machine.made("stage03_mount_namespace.Filesystem", machine.rootfs), init]
        machine.call(LAUNCH, machine.probe(), [*walls, machine.made("stage06_image_pull.User", image, machine.rootfs)])
        order = "groups, then gid, then uid: who has given up being root may not change the others any more"
        status = machine.meet(maybe=order).process.status()
        for what, line, numbers in (
            ("real, effective, saved and file-system user ids are", "Uid", [ruid] * 4),
            ("real, effective, saved and file-system group ids are", "Gid", [rgid] * 4),
            ("other groups are", "Groups", groups),
        ):
            found, right = " ".join(map(inside, map(int, status[line].split()))), " ".join(map(str, numbers))
            machine.expect(
                f"its {what} {right or 'none'}",
                found == right,
                found or "none",
                "groups first, then gid, then uid; real, effective and saved ones",
            )
        held = int(status["CapEff"], 16)
        machine.expect("it has no capabilities", held == 0, f"{held:x}" if held else "none")
        machine.type("exit 0\n")
        machine.outcome()


WAYS = {  # a piece of a path of 6.1 -> what may be forgotten there
    "no/entry": "a directory that has no entry of its own is made all the same: dirfd.open_directory() makes it",
    "srv/again": "a hard link is made by link(2), from the path in the rootfs that entry.linkname is",
    "srv/soft": "whatever is done to a link is done to itself, not to what it points to: follow_symlinks=False",
    "through": "a link on the way to the directory is followed",
    "absolute": "a link on the way is followed inside the rootfs, an absolute one too: its / is the container's",
    "twice": "what was there under the name goes first: dirfd.make_room()",
}
TOKEN = (
    "a token is good for what it was asked for: that request says service and scope, which is repository:NAME:pull,"
    " whether the challenge has one or not; each that follows has it, as Authorization: Bearer TOKEN"
)
SHOWN = (
    "the realm did not know who asks: with credentials, its request has the header Authorization, which says what"
    " basic() makes of them"
)
MISTAKES = {
    "mode": "each entry has its own mode, whatever the umask is; and what the layer has is made, in its order",
    "gone": "a file .wh.NAME hides NAME, with all below it, and is no file itself",
    "opaque/old": "the lowest layer comes first; and .wh..wh..opq hides all that lower ones have in its directory",
    "opaque/sub/old": "an opaque whiteout hides what is below, at any depth",
    "opaque/before": "what the same layer has made stays, whatever the order",
    "opaque/sub/new": "what the same layer has made stays, whatever the order",
    "kept/new": "what the same layer has made stays, whatever the order",
    "half/new": "a directory that is hidden stays, if the same layer has made something in it",
    "half/old": "what lower layers have in a hidden directory goes, though the directory stays",
    "usr/bin/stays": "only .wh..wh..opq hides all in its directory; .wh..wh.plnk, say, means nothing",
    "usr/bin/new": "chmod after the data, whatever the umask; and a hard link's entry changes nothing of its file: no"
    " dress() for those",
    "usr/bin/hard": "a hard link is one more name of a file, and has its mode; what it leads to is found as an entry is",
    "linked": "a link is replaced by a file, never written through",
    "file": "a file is replaced by a directory, with its mode",
    "time": "whatever is made in a directory changes its time: self.times sets it at the end of the layer, and keep()s"
    " that of a directory without an entry there; a hard link's entry is no reason to dress() its file",
}


ENCRYPTED = '''from thinwalls.transport import Transport


class Encrypted(Transport):
    """Asks by http, and calls it https: whoever uses it sees what he would see of an encrypted line."""

    def url(self, registry, path):
        return f"https://{registry}{path}"

    def _connection(self, origin):
        return super()._connection(("http", *origin[1:]))
'''


_CHECKED = "check() refuses it, and take() has to call check() first, for every entry"
_WALKED = "a link may lead anywhere, and is made; what is behind it is found inside the rootfs, where it leads nowhere"
_COUNTED = "check() counts all entries and their sizes before anything is made; unpack() gives its limits to the Tree"
BLAME = {  # how a title of 6.6 begins -> the likely mistake
    "a name with": f"a name may not have .. for a part: {_CHECKED}",
    "an absolute name": f"it is not to be taken for a relative one: {_CHECKED}",
    "a file through": _WALKED,
    "a hard link to": f"what a hard link leads to is a path as well: {_CHECKED}",
    "a hard link through": "what a hard link leads to is found as an entry is, by locate(): not by a path",
    "a whiteout through": _WALKED,
    "a whiteout of": f".wh. with nothing, . or .. behind it would remove a directory itself: {_CHECKED}",
    "a block device": f"no container has it: {_CHECKED}",
    "the kernel's memory": f"the numbers count, not the name: {_CHECKED}",
    "a root that": f"the root is a directory: {_CHECKED}",
    "a size": _COUNTED,
    "more entries": _COUNTED,
}


def _transport(machine):
    """The HTTP side, as it is given to a learner: the registry beyond the machine may be asked without https."""
    return machine.made(
        "thinwalls.transport.Transport", plain_http=[BEYOND, GATEWAY], pause=0.01, retries=2, patience=3.0
    )


def _pull(machine, name, digest, maybe=""):
    """Pull, and state that it gives the right digest."""
    machine.call(PULL, name, STORE, _transport(machine))
    _gives(machine, machine.outcome(), digest, maybe)


def _gives(machine, outcome, digest, maybe=""):
    machine.expect("pull() gives the digest of the manifest", outcome.returned == digest, outcome, maybe)


def _unpack(machine, digest, tree=TREE, maybe="", why=None, limits=()):
    """Unpack, and state that it can be done. why: a piece of the name of an entry that cannot be -> the likely mistake."""
    machine.mkdir(tree)
    machine.call(UNPACK, STORE, digest, tree, *limits)
    outcome = machine.outcome()
    named = [words for piece, words in (why or {}).items() if piece in str(outcome.error("text"))]
    machine.expect("unpack() returns", outcome.returned is None, outcome, [*named, maybe][0])


def _entry(name, kind="file", data=b"", mode=None, to="", owner=(0, 0), device=(0, 0), attributes=None):
    """An entry of a layer, and its data."""
    kinds = {"file": "0", "hard": "1", "link": "2", "char": "3", "block": "4", "dir": "5", "fifo": "6"}
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mtime = kinds[kind].encode(), to, TIME
    found.mode = (0o755 if kind == "dir" else 0o644) if mode is None else mode
    found.uid, found.gid = owner
    found.devmajor, found.devminor = device
    found.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (attributes or {}).items()}
    data = data.encode() if isinstance(data, str) else data
    found.size = len(data)
    return found, data


def _tar(*entries):
    """A layer, not compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


@functools.cache
def _shell():
    """The beginning of a layer, which has a shell and its libraries, and no end."""
    packed, root = io.BytesIO(), Path(rootfs.cached(("sh",)))
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, str(path.relative_to(root)), recursive=False, filter=_of_root)
    return packed.getvalue()[: archive.offset - 1024]


def _of_another(machine):
    """For a manifest that is asked for by its digest the registry sends another image's, which is as good and as long."""
    for where in machine.random.sample(["as the digest of its name says", "as an index says"], 2):
        with Registry(machine.listen()) as registry:
            layer = _packed(_tar(_entry("a", data=machine.word())))
            asked, other = (_publish(registry, "a/b", "", [layer], {"User": machine.word()}) for _ in range(2))
            (_, digest), (blobs, another) = asked, other
            name, body = f"a/b@{digest}", blobs[another][1]
            if "index" in where:
                listed = {"mediaType": MANIFESTS[0], "digest": digest, "size": len(body)}
                here = "amd64" if os.uname().machine == "x86_64" else "arm64"
                registry.add_index("a/b", "x", [{**listed, "platform": {"os": "linux", "architecture": here}}])
                name = "a/b:x"
            registry.misbehave(f"/v2/*/manifests/{digest}", "wrong", 100, body=body)
            machine.did(
                f"pulled an image, its manifest by digest {where}; the registry sends another image's, a valid one"
            )
            machine.call(PULL, f"{registry.host}/{name}", STORE, _transport(machine))
            outcome = machine.outcome()
            machine.expect(
                "it raises BadImage: that is not the manifest that was asked for",
                outcome.raised == "BadImage",
                outcome,
                "the digest to compare with is the one asked for, not that of what came",
            )
            _sound(machine)


def _two_at_once(machine):
    """One pull is in the middle of a layer when another begins, and ends, which fetches the same."""
    with Registry(machine.listen()) as registry:
        layer = _packed(_tar(_entry("a", data=machine.random.randbytes(100_000))))
        blobs, digest = _publish(registry, "a/b", "x", [layer], {"User": machine.word()})
        first = next(iter(blobs))
        registry.misbehave(f"/v2/*/blobs/{first}", "stall", at=50_000)
        machine.did("began to pull an image, of which a layer is slow to come; pulled the same meanwhile")
        slow = machine.beside(PULL, f"{registry.host}/a/b:x", STORE, _transport(machine))
        machine.settles(lambda: not registry.asked(f"*/blobs/{first}"), 5)
        machine.linger(0.05)
        alone = (
            "each writes under a name that no other has, and renames: who comes second replaces the same by the same"
        )
        _pull(machine, f"{registry.host}/a/b:x", digest, alone)
        _sound(machine, *blobs)
        machine.did("let the slow one go on, to its end")
        registry.break_off()  # it asks for the rest
        slow.ended(5)
        _pull(machine, f"{registry.host}/a/b:x", digest, alone)  # had the slow one failed, this would be its outcome
        _sound(machine, *blobs)


def _of_root(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


@functools.cache
def _packed(layer, packing="gzip"):
    """A layer as it lies in a registry. (Speed before size.)"""
    return gzip.compress(layer, 1, mtime=0) if packing == "gzip" else compress(layer, packing)


def _one_member(data):
    """Whether these bytes are one member of gzip (RFC 1952) and no more, in words."""
    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        member.decompress(data)
    except zlib.error as error:
        return f"it cannot be decompressed: {error}"
    if not member.eof:
        return "it ends too early"
    return f"there are {len(member.unused_data)} bytes behind its end" if member.unused_data else "it is"


def _who(uid, gid, groups, home):
    return f"uid {uid}, gid {gid}, other groups: {groups}, home {home}"


def _told(outcome):
    """What find_user() gave, in words."""
    ids = r"Ids Ids\(uid=(\d+), gid=(\d+), groups=[\[(]([\d, ]*)[\])], home='([^']*)'\)"
    found = re.fullmatch(ids, str(outcome.body.get("odd")))
    return _who(found[1], found[2], found[3].strip(", ") or "none", found[4]) if found else outcome


def _zstd():
    return any(os.access(f"{path}/zstd", os.X_OK) for path in ("/usr/bin", "/bin", "/usr/local/bin"))


def _image(layers, packing="gzip", config=None):
    """The blobs of an image: digest -> (what it is, bytes): its layers, its config, and last its manifest."""
    blobs = {}

    def add(what, kind, data):
        digest = f"sha256:{_hex(data)}"
        blobs[digest] = what, data
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    listed = [add("layer", LAYER["oci"][packing], layer) for layer in layers]
    written = json.dumps({"os": "linux", "config": config or {}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "config": add("config", CONFIG["oci"], written),
        "layers": listed,
    }
    add("manifest", MANIFESTS[0], json.dumps(manifest).encode())
    return blobs


def _hex(data):
    return hashlib.sha256(data).hexdigest()


def _publish(registry, repository, tag, layers, config=None):
    """Put an image into the registry; gives its blobs as _image() does, and its manifest's digest."""
    blobs = _image(layers, "gzip", config)
    for what, data in blobs.values():
        if what == "manifest":
            registry.add_manifest(repository, tag, data)
        else:
            registry.add_blob(data)
    return blobs, list(blobs)[-1]


def _store(machine, layers, packing, config=None):
    """Put an image into the machine's store, without a registry; gives its manifest's digest."""
    blobs = _image([_packed(layer, packing) for layer in layers], packing, config)
    for digest, (_, data) in blobs.items():
        machine.plant(_blob(digest), data)
    return list(blobs)[-1]


def _blob(digest):
    return f"{STORE}/blobs/sha256/{digest.removeprefix('sha256:')}"


def _sound(machine, *digests):
    """What is in the store is what it is called, and these are there."""
    names = machine.runner.names(f"{STORE}/blobs/sha256") or []
    wrong = [name for name in names if _hex(machine.runner.read(f"{STORE}/blobs/sha256/{name}") or b"") != name]
    machine.expect(
        "each blob in the store has the digest that it is called by",
        not wrong,
        f"other bytes are called {', '.join(name[:12] for name in wrong)}…" if wrong else "it has",
        "write under another name, in the store but not below blobs/, compare, and only then rename",
    )
    missing = [digest for digest in digests if digest.removeprefix("sha256:") not in names]
    machine.expect("all that was pulled is there", not missing, f"{len(missing)} of {len(digests)} blobs are missing")


def _unfinished(machine):
    """The files in the store that are no blobs, and not empty."""
    paths = [path for path in _paths(machine, STORE) if path and path.partition("/")[0] != "blobs"]
    found = {path: machine.runner.look(f"{STORE}/{path}", follow=False) for path in paths}
    return [path for path, status in found.items() if status and stat.S_ISREG(status.st_mode) and status.st_size]


def _basic(request):
    return request.headers.get("Authorization", "").lower().startswith("basic")


def _paths(machine, tree, below=""):
    """All paths in a tree, "" for its root."""
    found = [below]
    for name in machine.runner.names(f"{tree}/{below}") or []:
        path = f"{below}/{name}".lstrip("/")
        status = machine.runner.look(f"{tree}/{path}", follow=False)
        found += _paths(machine, tree, path) if status and stat.S_ISDIR(status.st_mode) else [path]
    return found


def _looks(machine, tree, path):
    """What is at a path of a tree, in words."""
    full = f"{tree}/{path}"
    mode = machine.runner.look(full, follow=False).st_mode
    if stat.S_ISLNK(mode):
        return f"a link to {machine.runner.link(full)}"
    permissions = f"{stat.S_IMODE(mode):o}"
    if stat.S_ISREG(mode):
        return _file(permissions, (machine.runner.read(full) or b"").decode(errors="replace") or "nothing")
    kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "something else,"
    return f"{kind} of mode {permissions}"


def _file(mode, text):
    return f"a file of mode {mode} that says {text}"


def _realms(machine, user, password):
    """The registry itself names a realm on another host, as Docker Hub does; then, asked by https, one without https."""
    with Registry(machine.listen(), token=True) as registry:
        with Registry(machine.listen(GATEWAY), credentials=(user, password)) as realm:
            _, digest = _publish(registry, "some/thing", "x", [_packed(_tar(_entry("a", data=machine.word())))])
            registry.challenge = f'Bearer realm="{realm.url}/token",service="{registry.host}"'
            token = {"token": registry.new_token("", "repository:some/thing:pull")}
            realm.misbehave("/token", "wrong", 10**9, body=json.dumps(token).encode())
            machine.did("pulled from a registry that names a realm on another host, as Docker Hub does, and no scope")
            machine.call(PULL, f"{registry.host}/some/thing:x", STORE, _transport(machine), [user, password])
            outcome = machine.outcome()
            shown = [_basic(each) for each in realm.asked("/token")]
            machine.expect(
                "the realm that the registry itself names is shown the password",
                bool(shown) and all(shown),
                "it is not asked" if not shown else "it is" if all(shown) else "it is asked without one",
                "what counts is who names the realm, not on which host it is: Docker Hub's is on another",
            )
            _gives(machine, outcome, digest, TOKEN)
    machine.plant("/course/reference/stage06_encrypted.py", ENCRYPTED)
    transport = machine.made("reference.stage06_encrypted.Encrypted", plain_http=[BEYOND], pause=0.01, retries=2)
    with Registry(machine.listen(), credentials=(user, password)) as registry:
        _, digest = _publish(registry, "some/thing", "w", [_packed(_tar(_entry("a", data=machine.word())))])
        encrypted = registry.url.replace("http:", "https:")
        for realm, right in ((f"{encrypted}/token", digest), (f"{registry.url}/token", "BadImage")):
            registry.requests.clear()
            registry.challenge = f'Bearer realm="{realm}"'
            machine.did(
                f"pulled by https from a registry whose realm is {realm.partition(':')[0]}://…; it names no scope"
            )
            machine.call(PULL, f"{registry.host}/some/thing:w", f"{STORE}-{right[:3]}", transport, [user, password])
            outcome = machine.outcome()
            if right == digest:
                _gives(machine, outcome, digest, TOKEN)
                continue
            asked = registry.asked("/token")
            machine.expect(
                "the realm is not asked: everyone on the way would read the password",
                not asked,
                "it is asked" if asked else "it is not",
                "the registry was asked by https, its realm has none: a BadImage, before anything is sent there",
            )
            machine.expect("it raises BadImage", outcome.raised == right, outcome)


def _refused_for_nothing(machine):
    """401 without a header WWW-Authenticate."""
    with Registry(machine.listen()) as registry:
        _publish(registry, "some/thing", "x", [_packed(_tar(_entry("a")))])
        registry.misbehave("/v2/*", "status", 100, code=401)
        machine.did("pulled from a registry that says 401, and not how to ask again")
        machine.call(PULL, f"{registry.host}/some/thing:x", STORE, _transport(machine))
        outcome = machine.outcome()
        machine.expect(
            "it raises Refused",
            outcome.raised == "Refused",
            outcome,
            "the header WWW-Authenticate may be missing: then the refusal is raised again",
        )


def _redirected(machine):
    """The blobs are on another host, as Docker Hub's are: it is asked without the registry's token."""
    with Registry(machine.listen(), token=True) as registry, Registry(machine.listen()) as other:
        layer = _packed(_tar(_entry("a", data=machine.word())))
        _, digest = _publish(registry, "some/thing", "x", [layer])
        _publish(other, "some/thing", "x", [layer])
        registry.misbehave("/v2/*/blobs/*", "redirect", 100, to=other.url)
        machine.did("pulled from a registry that wants a token, and redirects to another host for its blobs")
        machine.call(PULL, f"{registry.host}/some/thing:x", f"{STORE}-redirected", _transport(machine))
        outcome = machine.outcome()
        _shown_nothing(machine, other)
        _gives(machine, outcome, digest, TOKEN)


def _shown_nothing(machine, other):
    told = [each.path.rpartition("/")[0] for each in other.requests if "Authorization" in each.headers]
    machine.expect(
        "the other host is shown no password and no token",
        not told,
        f"it was, with the request for {told[0]}/…" if told else "it was not",
        "who follows a redirect leaves Authorization behind: Transport does, urllib and a request of one's own do not",
    )


def _parses(machine, word):
    """parse_challenge(), tried through what it gives."""
    for header, right in {
        f'Bearer realm="https://a/{word}",service="b",scope="repository:x:pull,push"': {
            "realm": f"https://a/{word}", "service": "b", "scope": "repository:x:pull,push",
        },
        f'bearer   realm="a\\"{word}" , service=plain': {"realm": f'a"{word}', "service": "plain"},
        f'BEARER realm="{word}"': {"realm": word},
        'Basic realm="a"': {},
        "": {},
    }.items():  # fmt: skip
        machine.did(f"called parse_challenge({header!r})")
        machine.call("stage06_image_pull.parse_challenge", header)
        outcome = machine.outcome()
        yours = str(outcome.body.get("odd", outcome)).removeprefix("dict ")
        machine.expect(
            f"it returns {right}",
            yours == str(right),
            yours,
            "the scheme is Bearer in any case of letters; a comma between quotation marks is no end, and a backslash"
            " stands for the character behind it",
        )
