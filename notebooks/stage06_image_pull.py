# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stage 6: image pull
#
# One thing has been a cheat so far. The container's root file system was made of this machine's own programs: its
# own shell, its own `ls`, copied into a directory. The walls were real, and behind them was home.
#
# Other people type three words and have a Debian, a database, a whole telephone exchange. It was put together by
# somebody they will never meet, and a minute later it runs on their machine, mostly as uid 0. Where does it come
# from? And why on earth may one do that?
#
# (Some seven hours, with the tasks. At the end you can say what an image is made of, byte by byte, what its name
# promises and what it does not, and how an archive climbs out of the directory that it is unpacked in. And your
# own runtime pulls images, and runs them. Without Jupyter: read `notebooks/stage06_image_pull.py`, build in any
# editor, and `./walls check 6` in a terminal. The cells' outputs come from
# `.venv/bin/python notebooks/stage06_image_pull.py`.)
#
# There are three good places to stop: tasks 6.1 to 6.4 fetch an image, 6.5 and 6.6 unpack it, 6.7 to 6.10 run it (6.9
# goes back to fetching, for an attack).
#
# We begin with the joy. The cell below is both sides at once: a registry, and somebody who pulls. The root file system
# is one archive; with it comes a paper on what to run, and a third that names the two. *Predict: how many requests does
# it take to fetch all that?*

# %%
import ctypes
import gzip
import hashlib
import io
import json
import os
import pwd
import re
import signal
import stat
import tarfile
import time
from pathlib import Path

from thinwalls import linux
from thinwalls.image import BadImage, Image, Limits, blob_path, read_image, read_manifest, stored
from thinwalls.notebook import check, demo
from thinwalls.registry import Registry
from thinwalls.standing import namespaces, started
from thinwalls.transport import Refused, Transport
from thinwalls.wall import Program

PATH = {"PATH": "/bin:/usr/bin"}
MIB = 1 << 20


def whole(directory):
    """A directory of the machine with all that is in it, as a tar archive: the bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(directory, ".")
    return packed.getvalue()


def asked(registry):
    """Print what was asked of a registry, in the alphabet's order; digests, which are long, by their first letters."""
    for request in sorted(registry.requests, key=lambda request: request.path):
        print("GET", re.sub("sha256:[0-9a-f]+", "sha256:...", request.path))


# %%
@demo(rootfs=True)
def a_guest():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage06_image_pull import program, pull, unpack

    Path("/srv/rootfs/etc/motd").write_text("Welcome. You are a guest in somebody else's house.\n")
    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/house", "latest", [whole("/srv/rootfs")], {"Cmd": ["cat", "/etc/motd"]})
        digest = pull(f"{registry.host}/stranger/house", "/srv/store", transport)
        asked(registry)
    os.mkdir("/srv/image")
    unpack("/srv/store", digest, "/srv/image")
    image = read_image("/srv/store", digest)
    launch(program(image, "/srv/image"), [Pids(), Filesystem("/srv/image"), Init()])


# %% [markdown]
# Three, listed here in the alphabet's order; the last was asked for first. That is all there is to it, and the rest of
# this stage is about why one may.
#
# (The stranger lives in the same throwaway machine, so that you need no network. Nothing else is simulated: it is
# a registry as on the internet, by the same specification, and yours will pull from those. That specification is
# the OCI's, the Open Container Initiative's, in which the makers of containers have agreed on a few texts. Two of
# them matter here: [distribution](https://github.com/opencontainers/distribution-spec/blob/main/spec.md), on what
# one asks a registry, and [image](https://github.com/opencontainers/image-spec/blob/main/spec.md), on what an image
# is made of. Wherever the stubs say "Read: OCI", these are meant.)
#
# ## Task 6.1: Pull a layer, and run it
#
# A *registry* is a web server with very few kinds of things. Let us look at what came, with nothing but `GET`.
# This image has one file in it. *Predict: where in all this is the file?*


# %%
def archive(*entries):
    """A tar archive, as bytes. Each entry is (name, text), or a tarfile.TarInfo of something that is no file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                made.addfile(entry)
            else:
                found = tarfile.TarInfo(entry[0])
                found.size = len(entry[1].encode())
                made.addfile(found, io.BytesIO(entry[1].encode()))
    return packed.getvalue()


def entry(name, kind, to=""):
    """An entry that is no file: a directory, a link to somewhere, ..."""
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, to, 0o755
    return found


# %%
@demo
def what_a_registry_says():
    with Registry() as registry, Transport() as transport:
        letter = archive(("etc/motd", "Dear guest, the key is under the mat.\n"))
        config = {"Cmd": ["cat", "/etc/motd"], "User": "guest"}
        registry.add_image("stranger/letter", "latest", [letter], config, "none", platform="linux/amd64")
        here = f"{registry.url}/v2/stranger/letter"
        manifest = transport.get(f"{here}/manifests/latest").body
        print(manifest.decode())
        digest = json.loads(manifest)["config"]["digest"]
        body = transport.get(f"{here}/blobs/{digest}").body
        print(json.dumps(json.loads(body), indent=1))
        print("it is called", digest)
        print("and it is   ", f"sha256:{hashlib.sha256(body).hexdigest()}")


# %% [markdown]
# The first answer is the *manifest*, the image's packing list. It has a config and a list of *layers*. A layer is
# a tar archive of files, mostly compressed; the letter is in there. The config says what to run and as whom. Both
# are plain bytes of no particular kind to the registry. It calls them *blobs*.
#
# And look at the names. Nobody has chosen them. The name of a blob, its *digest*, is the SHA-256 of the blob
# itself. The manifest can be asked for by its own digest as well; only `latest` is a word that somebody picked, a
# *tag*.
#
#     latest                       a tag: a word. It may point elsewhere tomorrow.
#       |
#       v
#     manifest   sha256:...        names all the rest, by digest
#       |
#       +---> config   sha256:...  what to run, as whom
#       +---> layer    sha256:...  files: the lowest
#       +---> layer    sha256:...  files: on top of it
#
# In words: a tag leads to a manifest, and the manifest, by digests, to one config and to the layers, the lowest
# first. Change one byte of one file in one layer, and the layer has another name; so the manifest has another
# text, and another name too. Who knows the manifest's digest knows all that hangs below it. You have met the same
# idea if you use git.
#
# What was fetched is kept in a directory, the *store*, each blob in a file that has its digest for a name. That
# is an old trick with many fruits, and two of them come at once: nothing is stored twice, and nothing is ever
# changed in place.
#
# Then the layers are unpacked, one on top of the other. There is one surprise in that. On most systems today
# `/bin` is a link to `/usr/bin`, and many images still have files whose name begins with `bin/`. *Predict: what
# becomes of the link? And where is the program?*


# %%
@demo
def a_link_below():
    from stages.stage06_image_pull import pull, unpack

    lower = archive(entry("usr/bin", tarfile.DIRTYPE), entry("bin", tarfile.SYMTYPE, "usr/bin"))
    upper = archive(("bin/hello", "#!/bin/sh\necho hello\n"))
    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/links", "latest", [lower, upper])
        digest = pull(f"{registry.host}/stranger/links", "/srv/store", transport)
    os.mkdir("/srv/image")
    unpack("/srv/store", digest, "/srv/image")
    print("bin is a link:", os.path.islink("/srv/image/bin"))
    print("in usr/bin:", *os.listdir("/srv/image/usr/bin"))


# %% [markdown]
# A link on the *way* to a name is followed, as a process inside would follow it. A link that *is* the name gets
# replaced. If you feel uneasy at the sight of an unpacker that follows a stranger's links, hold on to that
# feeling until task 6.6. For now it is enough to remember from stage 3 who can follow links as the container
# would: the kernel, asked by `openat2` to stay in the root. `dirfd.open_directory` has it do that, and makes the
# directories that are missing. Use descriptors from the first line on, and 6.6 will be short.
#
# **Build** the functions that say *Task 6.1* in [stages/stage06_image_pull.py](../stages/stage06_image_pull.py).
# There are seven, most of them short. To fetch:
#
# - `Repository.manifest` and `Repository.blob`, which ask for one thing and have it stored;
# - `write_blob`, which stores it;
# - `pull`, which knows what to ask for.
#
# And to unpack:
#
# - `unpack`, which takes the layers in their order;
# - `Tree.locate`, which finds where an entry goes;
# - `Tree.place`, which makes it.
#
# What is dull about HTTP (trying again, resuming, redirects) is given in `thinwalls/transport.py`, what is dull
# about tar in `thinwalls/layers.py`, and what one does to a name below a descriptor in `thinwalls/dirfd.py`. Then
# `./walls check 6.1`, or the cell below. It tries an image of one layer. Some mistakes are only found later: layers in
# the wrong order, and a descriptor that stays open, in 6.5; a hard link whose file is looked up by a path in 6.6.

# %%
check("6.1")

# %% [markdown]
# ## Task 6.2: A token, and nobody else's password
#
# Try that with Docker Hub, the registry that is meant where a name says none, and you are turned away, though the
# image is public. *Predict: what does a registry want from somebody who has no account? Count the requests below,
# and see which of them show a token.*


# %%
def without_port(text):
    """A text in which the registry's address, which is another one each time, has a name instead."""
    return re.sub("(http://)?127.0.0.1(:|%3A)[0-9]+", "REGISTRY", text)


# %%
@demo
def a_dance():
    from stages.stage06_image_pull import pull

    with Registry(token=True) as registry, Transport() as transport:
        registry.add_image("stranger/letter", "latest", [archive(("etc/motd", "hello\n"))])
        try:
            transport.get(f"{registry.url}/v2/stranger/letter/manifests/latest")
        except Refused as refused:
            print(refused.status, "WWW-Authenticate:", without_port(refused.headers["WWW-Authenticate"]))
        registry.requests.clear()
        pull(f"{registry.host}/stranger/letter", "/srv/store", transport)
        for request in registry.requests[:3]:
            shown = "with a token" if "Authorization" in request.headers else "without"
            print("GET", without_port(request.path), f"({shown})")
        print(
            "and two blobs, all with a token:", all("Authorization" in each.headers for each in registry.requests[3:])
        )


# %% [markdown]
# It wants you to have asked. The refusal has a header in it that says where one gets a *token*, for what service,
# and for what *scope*; one goes there, gets a long word, and comes back with it. Anybody is given one. The point
# of the dance is that the registry itself knows no passwords: somebody else looks at those, and the registry only
# reads what that somebody has signed. With an account you show your password at that door, and nowhere else.
#
# "Nowhere else" is a line of code. Registries redirect you to other hosts for their blobs, and the header with
# the password must not travel along. (The transport sees to that. What it cannot know is which door to believe.
# An answer from a host that you were merely redirected to could name a door of its own.)
#
# And tokens expire, five minutes being usual. A large layer on a slow line takes longer. So the refusal can come
# at any time, in the middle of a blob too; then one dances again, and goes on from the byte where one was. That
# much `thinwalls/session.py` does for you. How one dances it does not know: it calls your `authorize`.
#
# **Build** `parse_challenge` and `authorize`. The header looks like something that a split at commas would handle.
# The scope may have a comma in it. Then `./walls check 6.2`.

# %%
check("6.2")

# %% [markdown]
# ## Task 6.3: An index, and this machine's platform
#
# In stage 0 you read that a container simulates nothing. Here is the price. A program in an image is made for one
# kind of processor, and on another one the kernel refuses it: *Exec format error*. (A virtual machine can
# simulate the right processor. It is slow, and it works.) So behind one tag there is often a list of manifests,
# one for each platform: an *index*. The one below is for `linux/amd64`, `linux/arm64/v8`, `linux/arm/v6`,
# `linux/arm/v7` and `unknown/unknown`. The third part is a variant; who asks for none takes the first that fits.
# *Predict: what does somebody get who asks for `linux/arm64`, `linux/arm` or `linux/riscv64`?*


# %%
@demo
def one_name_for_many():
    from stages.stage06_image_pull import choose

    with Registry() as registry, Transport() as transport:
        platforms = ("linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "unknown/unknown")
        made = [
            registry.add_image("stranger/many", "", [archive()], {"Cmd": [each]}, platform=each) for each in platforms
        ]
        registry.add_index("stranger/many", "latest", made)
        index = json.loads(transport.get(f"{registry.url}/v2/stranger/many/manifests/latest").body)
    by_digest = {each["digest"]: platform for each, platform in zip(made, platforms, strict=True)}
    for wanted in ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm", "linux/riscv64"):
        try:
            print(f"{wanted:<14}->", by_digest[choose(index, wanted).digest])
        except BadImage as error:
            print(f"{wanted:<14}->", error)


# %% [markdown]
# The one that is for nobody is an *attestation*: a paper on how the image was made, hung into the list by build
# tools. A program that does not look at the platform may take it for a system.
#
# There is a trap in the JSON as well. Suppose a document has a list of manifests *and* a list of layers. One
# program takes it for an index, the next for a manifest, and both have checked the same digest. So somebody could
# have one thing inspected, and another one run, under one name (CVE-2021-41190). What can be read in two ways is
# not to be read at all.
#
# ![An image: documents that name each other by digest. A name, stranger/letter:latest, leads to an index: a tag is a
# word, and means what the registry says today. From there on everything is named by the digest of its content. The
# index names a manifest for each platform: for linux/amd64 sha256:4f737274.... That manifest names a config,
# sha256:64941bc1..., which says what to run, and three layers, the lowest first: sha256:9c439594...,
# sha256:0d98ad88..., sha256:78e4c381.... Each layer is an archive of files. The layers are drawn as they lie, the lowest
# at the bottom.](pictures/stage06_image.svg)
#
# **Build** `choose`, and what 6.3 adds to `pull`. Then `./walls check 6.3`.

# %%
check("6.3")

# %% [markdown]
# ## Task 6.4: Verify, then store
#
# Between you and the registry are caches, mirrors, proxies, and disks that rot. *Predict: the registry below
# holds the right layer, and sends other bytes of the same length. Who notices?*


# %%
@demo
def other_bytes():
    from stages.stage06_image_pull import pull

    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/letter", "latest", [archive(("etc/motd", "hello\n"))])
        here = f"{registry.url}/v2/stranger/letter"
        layer = json.loads(transport.get(f"{here}/manifests/latest").body)["layers"][0]
        registry.misbehave(f"/v2/*/blobs/{layer['digest']}", "wrong", times=2)  # for us, and then for pull()
        came = b"".join(transport.download(f"{here}/blobs/{layer['digest']}", size=layer["size"]))
        print("HTTP is content with as many bytes" if len(came) == layer["size"] else "HTTP objects")
        try:
            pull(f"{registry.host}/stranger/letter", "/srv/store", transport)
        except BadImage as error:
            print("pull() refuses", "the layer" if str(error).startswith(layer["digest"]) else error)
        print("the layer is in the store:", os.path.exists(blob_path("/srv/store", layer["digest"])))


# %% [markdown]
# This is the answer to half of the question at the top. You need not trust the line, the mirror or the disk. If
# the bytes have the digest that you asked for, they are the bytes, from wherever they came.
#
# It only works if nobody ever skips the check, and there is a subtle way to skip it: to find a file under the
# right name in the store, and take it for the blob. It may be the half that was written before the machine lost
# its power. *Predict: the two children below are killed in the middle of writing. What is there under the name?*


# %%
@demo
def killed_in_the_middle():
    from stages.stage06_image_pull import write_blob

    digest = f"sha256:{hashlib.sha256(b'first half, second half').hexdigest()}"

    def halves():
        yield b"first half, "
        os.kill(os.getpid(), signal.SIGKILL)

    def straight():
        path = Path(blob_path("/srv/store", digest))
        path.parent.mkdir(parents=True)
        with open(path, "wb", buffering=0) as file:
            for piece in halves():
                file.write(piece)

    for title, way in (
        ("straight to its name", straight),
        ("by write_blob", lambda: write_blob("/srv/store", digest, halves())),
    ):
        pid = os.fork()
        if pid == 0:
            way()
        os.waitpid(pid, 0)
        print(f"{title}: there is something:", stored("/srv/store", digest))
        Path(blob_path("/srv/store", digest)).unlink(missing_ok=True)


# %% [markdown]
# `rename` is the call that makes this possible. Under its new name a file is there at once and whole, and whoever
# looks sees it or does not. (Before that the content has to be on the disk, by `fsync`. A kernel is free to write
# the name first.) With that rule a name in the store is a proof, and the proof is worth a second pull. *Predict:
# how many requests does each of these make? The second image is another one, with the same lowest layer.*


# %%
@demo
def again():
    from stages.stage06_image_pull import pull

    base = archive(("bin/sh", "imagine a shell\n"))
    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/one", "latest", [base, archive(("app", "one\n"))])
        registry.add_image("stranger/two", "latest", [base, archive(("app", "two\n"))], {"Cmd": ["/app"]})
        for what in ("one", "one, again", "two"):
            registry.requests.clear()
            digest = pull(f"{registry.host}/stranger/{what[:3]}", "/srv/store", transport)
            blobs = len(registry.asked("*/blobs/*"))
            print(f"{what:<12}{len(registry.requests) - blobs} manifest, {blobs} blobs")
        registry.requests.clear()
        pull(f"{registry.host}/stranger/two@{digest}", "/srv/store", transport)
        print("two, by digest:", len(registry.requests), "requests")


# %% [markdown]
# A tag has to be asked for each time, for it is only a word, and may mean something else by now. A digest never
# does. Shared layers are fetched once, and that is why people take some care to build many images on one base.
#
# **Build** `verified`, and what 6.4 adds to `manifest`, `blob` and `write_blob`. Then `./walls check 6.4`.

# %%
check("6.4")

# %% [markdown]
# ## Task 6.5: Layer upon layer
#
# A layer can add files, and by adding one of the same name it can change them. How does it *remove* something? It
# cannot reach into the layer below, which has a digest, and which other images use. It can only bring something
# along that says: *not this*. Such a thing is called a *whiteout*, after the fluid for typing errors. It is an
# empty file whose name begins with `.wh.`
#
# ![Layers on top of each other, and a whiteout. A table with a column for each path, the highest layer first. Layer 3
# has another etc/motd, which says three, and a whiteout, srv/.wh.draft. Layer 2 has srv/letter and srv/draft. Layer 1,
# the lowest, has bin/sh and etc/motd, which says one. In each column the first thing from the top counts. Seen are
# bin/sh of layer 1, etc/motd of layer 3 and srv/letter of layer 2. srv/draft is not seen, nor is the whiteout; but it
# is still in layer 2.](pictures/stage06_layers.svg)
#
# Look down each column from the top: what you meet first is what counts. In words: of three layers the lowest has
# a shell and a message of the day. The second adds a letter and a draft. The third has another message, and a
# whiteout for the draft. What a container sees is the shell, the letter, and the third layer's message; the draft
# is not there, and the whiteout is not either. *Predict: the draft had a password in it, and its author was
# relieved to have removed it. Was he right?*


# %%
def three():
    """The three layers of the picture."""
    return (
        archive(("bin/sh", "imagine a shell\n"), ("etc/motd", "one\n")),
        archive(("srv/letter", "Dear all,\n"), ("srv/draft", "the password is mellon\n")),
        archive(("etc/motd", "three\n"), ("srv/.wh.draft", "")),
    )


def tree(directory):
    """The files of a directory, by their paths."""
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*") if path.is_file())


# %%
@demo
def layer_by_layer():
    from stages.stage06_image_pull import pull, unpack

    with Registry() as registry, Transport() as transport:
        for count in (1, 2, 3):
            registry.add_image("stranger/layers", f"up-to-{count}", three()[:count])
            digest = pull(f"{registry.host}/stranger/layers:up-to-{count}", "/srv/store", transport)
            os.mkdir(f"/srv/{count}")
            unpack("/srv/store", digest, f"/srv/{count}")
            print(f"up to layer {count}:", *tree(f"/srv/{count}"))
    print("etc/motd says", Path("/srv/3/etc/motd").read_text().strip())
    second = read_manifest("/srv/store", digest)[1][1]
    with tarfile.open(blob_path("/srv/store", second.digest)) as layer:
        print("in the store:", layer.extractfile("srv/draft").read().decode().strip())


# %% [markdown]
# He was not. What is taken away by a layer is still in the one below, and everybody who pulls the image has it on
# their disk. People find passwords in public images like that by the thousand.
#
# There is a second kind of whiteout, called `.wh..wh..opq`: *opaque*. It stands in a directory and takes away all
# that lower layers have in there. Mind "lower". What the layer itself puts into that directory is to stay, and
# the archive may list it before the whiteout or after.
#
# Then the small print of files. A mode of 4755 has to come out as 4755, whatever umask you happen to have. Some
# programs have their powers in an *extended attribute*. And dates: a file's is easy, a directory's changes
# whenever something is made in it, so it can only be set when all is done. *Predict: which of these three dates
# will survive an unpacker that sets each of them as soon as it has made the thing?*


# %%
@demo
def dates():
    old = 1_000_000_000  # a moment in September 2001
    made = ("srv", "srv/letter", "srv/drawer")
    os.makedirs("/srv/image")
    for name in made:
        path = f"/srv/image/{name}"
        Path(path).write_text("Dear all,\n") if name.endswith("letter") else os.mkdir(path)
        os.utime(path, (old, old))
    for name in made:
        print(f"{name:<11}is from 2001:", os.stat(f"/srv/image/{name}").st_mtime == old)


# %% [markdown]
# Not the first: two things were made in it after that.
#
# **Build** `whiteout` and `dress`, and what 6.5 adds to `locate` and `place`. Then `./walls check 6.5`.

# %%
check("6.5")

# %% [markdown]
# ## Task 6.6: Layers that mean harm
#
# Now the other half of the question. A digest proves that a layer is the one that was meant. It does not say what
# was meant. And before any of your walls stands, there is a moment that people forget: somebody *unpacks* the
# layer. That somebody is you, outside, with all your powers.
#
# Here is the obvious way to do it, Python's own `tarfile`, as it was for twenty years. The machine has a letter
# of its own. *Predict: which of these three archives changes it?*


# %%
def hostile():
    """Three archives that would write to the machine's letter: what is odd about each, and its entries."""
    return {
        "a name with .. in it": (("../letters/mine", "written by a stranger\n"),),
        "a name that begins with /": (("/srv/letters/mine", "written by a stranger\n"),),
        "two entries, each of them harmless": (
            entry("drawer", tarfile.SYMTYPE, "/srv/letters"),
            ("drawer/mine", "written by a stranger\n"),
        ),
    }


def my_letter():
    """Put the machine's letter in its place again."""
    os.makedirs("/srv/letters", exist_ok=True)
    Path("/srv/letters/mine").write_text("written by me\n")


# %%
@demo
def the_obvious_way():
    for number, (title, entries) in enumerate(hostile().items()):
        my_letter()
        os.mkdir(f"/srv/{number}")
        with tarfile.open(fileobj=io.BytesIO(archive(*entries))) as layer:
            layer.extraction_filter = lambda member, path: member  # no filter: the default before Python 3.14
            layer.extractall(f"/srv/{number}")
        print(f"{title}: the letter is", Path("/srv/letters/mine").read_text().strip())


# %% [markdown]
# All three. The first two could be caught by looking at names, and were, everywhere, after a name had been found
# for the mistake (*zip slip*). The third has two names that nobody could object to, `drawer` and `drawer/mine`.
# Only the kernel, walking, meets the link.
#
# So Python got *filters*, which also look where the links lead, with `os.path.realpath`, before anything is made.
# That is a good deal better, and it is a program that walks through names and *foretells* what the kernel will do
# when it walks. In 2025 somebody chained links until their path was longer than `realpath` would go on resolving;
# from there on it returned the rest unread, the filter found nothing wrong, and the kernel went where it was told
# (CVE-2025-4517, and four more of its kind before and after). Whoever foretells will be wrong some day.
#
# You know the other way from stage 3. Do not foretell: have the *kernel* walk, once, with its foot chained to the
# rootfs, and keep what it found as a descriptor. If your `locate` does that, the link above has lost its power
# already. What is left for this task are the things that no honest layer has: names like the first two, and more
# of their kind. They are refused before anything is made.
#
# Then there are layers that lead nowhere and are simply too much. *Predict: how large is a layer with a gigabyte
# of zeros in it?* This one has a sixteenth of that.


# %%
@demo
def much_of_nothing():
    packed = gzip.compress(bytes(64 * MIB))
    print("64 MiB of zeros take", "less" if len(packed) < 100 << 10 else "more", "than 100 KiB")


# %% [markdown]
# A gigabyte takes 16 times as much: a megabyte, about. So it has to be counted *while* it is unpacked, and the archive's own word is enough for
# that, as it has to say in front of each file how long it is. Entries are counted as well: an empty file costs
# the kernel something too, as you know from the bill in stage 4.
#
# Lastly *device files*. A layer may contain the disk: two numbers, as in stage 3. An unpacker that is the
# machine's real root would make it, and the container could read every file of every user, walls or no walls.
# What any container has anyway, `/dev/null` and its like, is left out in peace.
#
# **Build** `check`, and call it in `take`, for each entry, before anything is made of it. Then
# `./walls check 6.6`.

# %%
check("6.6")

# %% [markdown]
# The same archives once more, and two that are too much. (Where yours is not built yet, less is refused, and the
# letter should be safe all the same.)


# %%
def unpacked(entries, *limits):
    """Unpack a layer of these entries into a new directory. Gives it, and what was said against it."""
    from stages.stage06_image_pull import Tree

    place = f"/srv/image-{os.urandom(4).hex()}"
    os.mkdir(place)
    Path("/srv/layer").write_bytes(archive(*entries))
    made = Tree(place, Limits(*limits))
    try:
        made.apply("/srv/layer", "application/vnd.oci.image.layer.v1.tar")
        return place, "done"
    except BadImage as error:
        return place, f"refused: {error}"
    finally:
        made.close()


# %%
@demo
def the_kernel_walks():
    my_letter()
    for title, entries in hostile().items():
        print(f"{title}: {unpacked(entries)[1]}")
    print("the letter is", Path("/srv/letters/mine").read_text().strip())
    inside = unpacked((entry("srv/letters", tarfile.DIRTYPE), *hostile()["two entries, each of them harmless"]))
    print("with such a directory of its own:", inside[1], *tree(inside[0]))
    print("3 MiB, where 2 are allowed:", unpacked([("zeros", "0" * 3 * MIB)], 2 * MIB)[1])
    print("30 entries, where 20 are allowed:", unpacked([(f"empty-{number}", "") for number in range(30)], 2 * MIB, 20)[1])


# %% [markdown]
# The refusals name the entry, for somebody will have to find out who has made it. The third is refused because
# the link leads nowhere: this image has no `/srv/letters`. (It says "File exists" because the missing directory was to
# be made, and the link was in its place.) The last two lines name both limits: the first is over the bytes, the second
# over the entries. The line before them is of an image that has such a directory. The link says
# `/srv/letters`, and that means the *image's* `/srv/letters`, as it would for a program inside. That is honest
# work, and done.
#
# ## Task 6.7: What the image says to run
#
# The config says what to run. It does so with two lists, `Entrypoint` and `Cmd`, and everybody has mixed them up
# once. *Predict: what will stand in the last column?*


# %%
@demo(rootfs=True)
def two_lists():
    from stages.stage06_image_pull import program

    print("Entrypoint  Cmd         you say     what runs")
    for entrypoint, command in (((), ("sh",)), (("git",), ("--help",)), (("git",), ())):
        for given in ((), ("log",)):
            argv = program(Image((), entrypoint, command), "/srv/rootfs", given).argv
            print("".join(f"{' '.join(words) or '-':<12}" for words in (entrypoint, command, given)) + " ".join(argv))


# %% [markdown]
# `Entrypoint` is what the image *is*; `Cmd` is what it does if you say nothing else. What you say replaces the
# second and goes behind the first. With an image that is a tool, you give only its arguments; with an image that
# is a system, you give a command.
#
# The config also says as *whom*: `User`. It may be a name. *Predict: who knows the number of `carol`?*


# %%
@demo(rootfs=True)
def whose_list():
    from stages.stage06_image_pull import find_user

    with open("/srv/rootfs/etc/passwd", "a") as file:
        file.write("carol:x:1000:1000::/carol:/bin/sh\n")
    try:
        print("the machine says", pwd.getpwnam("carol").pw_uid)
    except KeyError as error:
        print("the machine says", error.args[0])
    print("the image says", find_user("carol", "/srv/rootfs").uid)


# %% [markdown]
# Two machines, two lists; the kernel knows numbers only. So you read the image's own `/etc/passwd`, as a file.
# One could also enter the image first and *then* ask Python's `pwd`. Do not. `pwd` asks the C library, and that
# loads further libraries to find out, by name, from `/lib`; which is the image's by then. So a stranger's library
# would run in your program, outside the walls that you have not finished yet. `docker cp` did that
# (CVE-2019-14271), and whoever copied a file out of such a container had lost the machine.
#
# And a number is a text here, too. The largest uid is 4294967294, for the kernel keeps them in 32 bits. *Predict: an
# image wants to run as 4294967295, or as 4294967296. Who would it be?*


# %%
@demo(rootfs=True)
def no_change():
    from stages.stage06_image_pull import find_user

    os.setresuid(-1, -1, -1)
    print("uid after setresuid(-1, -1, -1):", os.getuid())
    print("-1 and 4294967296, in 32 bits:", ctypes.c_uint32(-1).value, ctypes.c_uint32(2**32).value)
    for user in (str(2**32 - 1), str(2**32), "-1", "1000:", "nobody-here"):
        try:
            print(f"User {user!r}:", find_user(user, "/srv/rootfs"))
        except BadImage as error:
            print(f"User {user!r}: {error}")


# %% [markdown]
# In 32 bits minus one and 4294967295 are the same, and both mean *leave it as it is*; one more wraps around to 0.
# So an image that is "not root" is root. It is the kind of mistake that passes every test but one.
#
# **Build** `program` and `find_user`. (To read the config is dull: `read_image` in `thinwalls/image.py`.) Then
# `./walls check 6.7`.

# %%
check("6.7")

# %% [markdown]
# ## Task 6.8: Twice the same
#
# The image was unpacked, and now a container writes to it. The next one would find what it wrote. One could copy
# the tree for every container. There is something better, and you have seen its principle already: layers.
#
# An *overlay* is a mount with a lower directory, which is only read, and an *upper* one, which takes all that is
# changed. *Predict: in a file of 4 MiB one byte is changed, and a second file is removed. What is in the upper
# directory? What is in the lower one?*


# %%
@demo
def only_the_changes():
    for name in ("lower", "upper", "work", "seen"):
        os.mkdir(f"/srv/{name}")
    Path("/srv/lower/large").write_bytes(bytes(4 * MIB))
    Path("/srv/lower/draft").write_text("the password is mellon\n")
    options = "lowerdir=/srv/lower,upperdir=/srv/upper,workdir=/srv/work,userxattr"
    linux.mount("image", "/srv/seen", "overlay", 0, options)
    print("at first, in the upper directory:", os.listdir("/srv/upper") or "nothing")
    with open("/srv/seen/large", "r+b") as file:
        file.write(b"x")
    os.unlink("/srv/seen/draft")
    print("seen:", *os.listdir("/srv/seen"))
    print("below:", *sorted(os.listdir("/srv/lower")))
    print("upper: large has", os.stat("/srv/upper/large").st_size // MIB, "MiB")
    found = os.lstat("/srv/upper/draft")
    print(
        "upper: draft is a device file:",
        stat.S_ISCHR(found.st_mode),
        "with the numbers",
        os.major(found.st_rdev),
        os.minor(found.st_rdev),
    )


# %% [markdown]
# The whole file. At the first change it is copied up, all of it, and a database that does this with a file of ten
# gigabytes is slow to start: that is what volumes are for. And there is the whiteout again. What a layer spells
# `.wh.draft`, the kernel's overlay spells as a device file with the numbers 0 and 0.
#
# The upper directory of a container that is to leave nothing can be in memory, on a tmpfs that only the
# container's own mount table has. Then there is nobody who would have to tidy up: the last process ends, the
# table goes, the tmpfs with it. *Predict: what do the two containers print? And the image?*


# %%
@demo(rootfs=True)
def twice():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage06_image_pull import Disposable

    Path("/srv/rootfs/etc/motd").write_text("as it was pulled\n")
    os.mkdir("/srv/container")
    script = "read line < /etc/motd; echo it says: $line; echo I was here > /etc/motd; cat /etc/motd"
    for _ in range(2):
        walls = [Pids(), Disposable("/srv/rootfs", "/srv/container"), Filesystem("/srv/container"), Init()]
        launch(Program(["sh", "-c", script], PATH), walls)
    print("the image says:", Path("/srv/rootfs/etc/motd").read_text().strip())
    print("left at the place of the container:", os.listdir("/srv/container") or "nothing")


# %% [markdown]
# ![What a container changes, and when it is gone. Two states. While the container runs: below lies the image, which
# was unpacked once and is only read. Above it, on a tmpfs that only the container's mounts have, lies the upper
# directory: a file that was changed, copied up whole, and a whiteout for one that was removed. The container sees both
# as one root. After its end: its table of mounts is gone, the tmpfs and the upper directory with it. The image is as
# it was, and the next container begins with it.](pictures/stage06_overlay.svg)
#
# **Build** `Disposable`. The order of things with the tmpfs needs a thought: it can be mounted at the very place
# that the overlay will cover, as long as you hold on to it by a descriptor. Then `./walls check 6.8`.

# %%
check("6.8")

# %% [markdown]
# ## Task 6.9: Attack: other bytes for the same name
#
# You change sides. The registry is yours, and somebody out there pulls a layer from it by its digest. Their
# client is a sloppy one: it compares the *length* and spares itself the hashing. (It costs time, after all, and
# the bytes come by https.) Can you give them another layer, of exactly the length they expect?
#
# A layer is compressed, and what you want to say is not as long, nor as short, as what was there. *Predict: where
# in an archive can one put bytes that nobody reads? Behind its end, say?*


# %%
@demo
def behind_the_end():
    honest = gzip.compress(b"welcome", mtime=0)
    for what, more in (("text", b"nobody reads this"), ("zeros", bytes(17))):
        try:
            print(f"{what} behind the end: unpacked as", gzip.decompress(honest + more).decode())
        except OSError as error:
            print(f"{what} behind the end: refused, {type(error).__name__}")


# %% [markdown]
# Behind the end is a bad place. Text is taken for another archive there, and zeros, which Python takes for
# padding, are an error for others. But file formats are polite and leave room elsewhere, too. Read what may stand
# in a header of gzip, and who has to read it.
#
# **Build** `forge`. Then `./walls check 6.9`.

# %%
check("6.9")

# %% [markdown]
# With yours, or ours, the sloppy client first, and then one that hashes:


# %%
@demo
def two_clients():
    from stages.stage06_image_pull import forge, pull

    honest = gzip.compress(archive(("etc/motd", "welcome to the house, and make yourself at home\n" * 9)), mtime=0)
    Path("/srv/honest").write_bytes(honest)
    forge("/srv/honest", "/srv/forged", "etc/motd", "the locks have been changed\n")
    forged = Path("/srv/forged").read_bytes()
    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/house", "latest", [Path("/srv/honest")])
        here = f"{registry.url}/v2/stranger/house"
        layer = json.loads(transport.get(f"{here}/manifests/latest").body)["layers"][0]
        registry.misbehave(f"/v2/*/blobs/{layer['digest']}", "wrong", times=2, body=forged)  # for each client once
        came = b"".join(transport.download(f"{here}/blobs/{layer['digest']}", size=layer["size"]))
        with tarfile.open(fileobj=io.BytesIO(came)) as found:
            print("the length is right:", len(came) == layer["size"])
            print("the sloppy client reads:", found.extractfile("etc/motd").read().decode().strip())
        try:
            pull(f"{registry.host}/stranger/house", "/srv/store", transport)
        except BadImage:
            print("the one that hashes refuses the layer")


# %% [markdown]
# That door is shut. But you are the registry, and you have another one. You need not forge what has a digest. You
# are the one who says *which* digest. *Predict: what does the careful client say to this?*


# %%
@demo
def another_word():
    from stages.stage06_image_pull import pull

    with Registry() as registry, Transport() as transport:
        registry.add_image("stranger/house", "latest", [archive(("etc/motd", "welcome\n"))])
        first = pull(f"{registry.host}/stranger/house", "/srv/store", transport)
        registry.add_image("stranger/house", "latest", [archive(("etc/motd", "the locks have been changed\n"))])
        second = pull(f"{registry.host}/stranger/house", "/srv/store", transport)
        pinned = pull(f"{registry.host}/stranger/house@{first}", "/srv/store", transport)
        print("the same name again:", "the same image" if first == second else "another image")
        print("the name with a digest:", "the same image" if first == pinned else "another image")


# %% [markdown]
# Nothing, and it is right to. A tag means what its registry says it means, today. Mostly that is what one wants,
# for tomorrow's `debian:12` will have fewer holes. Who wants the same thing twice writes the digest behind the
# name. Who wants to know that the *maker* meant it needs a signature, which is a matter beyond this course.
#
# So that is the answer to the question at the top. A digest makes sure that you have what was meant, from
# wherever it came. It does not make it good. For that there are five stages of walls.
#
# ## Task 6.10: Other owners, another user
#
# The last of them is in the image itself. Its files belong to several users, and its program may be meant to run
# as one of those. The wall is one of three calls. *Predict: in which order? One of these two is not possible.*


# %%
# NBVAL_IGNORE_OUTPUT
@demo
def which_first():
    for order in (("group", "user"), ("user", "group")):
        pid = os.fork()
        if pid == 0:
            try:
                for which in order:
                    if which == "group":
                        os.setresgid(1000, 1000, 1000)
                    else:
                        os.setresuid(1000, 1000, 1000)
                print(*order, "- uid and gid are", os.getuid(), os.getgid())
            except OSError as error:
                print(*order, "-", which, "was refused:", error.strerror)
            os._exit(0)
        os.waitpid(pid, 0)


# %%
either = "group user - uid and gid are 1000 1000\nuser group - group was refused: Operation not permitted"
neither = "group user - group was refused: Invalid argument\nuser group - user was refused: Invalid argument"
assert which_first in (either, neither), "there are other ids, or there is but one"

# %% [markdown]
# Who has given up being root may not change groups any more. So it is: other groups, group, user. (If everything
# was refused as an *Invalid argument*: your throwaway machine has one single id, as is usual where an ordinary
# user makes it without help. Then nobody else than root can be had in it, and this task is graded where there are
# more.)
#
# Why does it matter, with all the walls up? Because a uid is the last thing that counts when a wall has a hole. You
# know two such holes: a descriptor that has slipped through, a volume that holds more than it should. What is in there
# belongs to uid 0, and the program is not uid 0.
#
# **Build** `Tree.own`, its call in `place`, and `User.inside`. Then `./walls check 6.10`.

# %%
check("6.10")

# %% [markdown]
# ## What it costs
#
# A pull is four things: fetch, hash, decompress, write. *Predict: which of them takes longest?* The layer below
# has 400 files. Each is 40 000 characters long: 20 000 random hexadecimal digits, and then the same once more, so
# that there is something to compress, as in real files. The network is this machine's own loopback, which is as
# fast as a network can be.


# %%
# NBVAL_IGNORE_OUTPUT
@demo(seconds=60)
def where_the_time_goes():
    from stages.stage06_image_pull import Tree

    packed = gzip.compress(
        archive(*((f"usr/lib/file-{number}", os.urandom(10000).hex() * 2) for number in range(400))), compresslevel=1
    )
    print(f"{len(packed) / MIB:.1f} MiB, compressed")
    with Registry() as registry, Transport() as transport:
        blob = registry.add_blob(packed)
        began = time.monotonic()
        with open("/srv/layer", "wb") as file:
            file.writelines(transport.download(f"{registry.url}/v2/x/blobs/{blob['digest']}", size=blob["size"]))
        times = {"fetch": time.monotonic() - began}
    began = time.monotonic()
    hashlib.sha256(packed).hexdigest()
    times["hash"] = time.monotonic() - began
    began = time.monotonic()
    gzip.decompress(packed)
    times["decompress"] = time.monotonic() - began
    os.mkdir("/srv/image")
    tree = Tree("/srv/image")
    began = time.monotonic()
    tree.apply("/srv/layer", "application/vnd.oci.image.layer.v1.tar+gzip")
    times["decompress and write"] = time.monotonic() - began
    tree.close()
    for what, seconds in times.items():
        print(f"{what:<22}{seconds * 1000:6.0f} ms")


# %%
assert len(where_the_time_goes.splitlines()) == 5 and "decompress and write" in where_the_time_goes

# %% [markdown]
# Measured here, in memory and without a network. The order of the lines is much the same elsewhere, but for the
# first one: over a real line, fetching is most of it. In a study of 57 images pulling made up 76 percent of the
# time from command to start, and of the data that was pulled the programs then read 6.4 percent (Harter and
# others, *Slacker*, 2016). A virtual machine's disk image has the same trouble, and one more: it has no layers to
# share.
#
# Nothing here is a secret of the trade. Hashing lets go of Python's lock, and so does decompressing; so a pull
# can do several at once, and `thinwalls/layers.py` decompresses in one thread while another writes.
#
# ## The walls as they now stand
#
# A program behind the walls of stages 2, 3 and 6, beside the machine's first process. (The network and the limits
# have had tables of their own; without them this one can be shown on every machine.) *Predict: in which lines is
# nothing taken away?*


# %%
def standing(pid):
    """Print for each wall whether it stands around a process."""
    namespaces(pid, "uts", "ipc", "pid", "mnt", "user")
    theirs, ours = (
        dict(line.split(":\t", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines())
        for each in (pid, 1)
    )
    lost = int(ours["CapBnd"], 16) & ~int(theirs["CapBnd"], 16)
    print("    capabilities        all but", lost.bit_count())
    print("    no_new_privs       ", "set" if theirs["NoNewPrivs"] == "1" else "not set")
    print("    seccomp filter     ", "its own" if theirs["Seccomp"] != ours["Seccomp"] else "none of its own")


# %%
@demo(rootfs=True)
def the_walls():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem, Sealed
    from stages.stage06_image_pull import Disposable

    os.mkdir("/srv/container")
    walls = [Disposable("/srv/rootfs", "/srv/container"), Filesystem("/srv/container"), Caps(), Sealed(), Init()]
    standing(started(launch, Uts("box"), Pids(), *walls))


# %% [markdown]
# ![The walls after stage 6: image pull. Two columns, the machine and the process, with a wall between them. New in
# this stage: files of the rootfs (its changes, not kept; Disposable); user ids (as the image says; User). Its own
# before: root directory (its own, no other left; Filesystem); host name, IPC (its own; Uts); process numbers (its own,
# from PID 1; Pids, Init); mounts, /proc, /dev (its own; Filesystem); power to mount (taken away; Caps); network (its
# own: lo, eth0; Network). A part of it, before: memory, CPU, forks (up to a limit; Cgroup). Still shared with the
# machine: kernel, clock.](pictures/stage06_walls.svg)
#
# ## Beside somebody else's
#
# You have built what people mean by a container. `./walls pull` fetches an image from any registry, and
# `./walls run` runs it, behind your own walls. Now the whole of it, with every flag that makes a wall, beside the
# same root file system in podman, which most people would use, and in bubblewrap, in which desktops put their
# programs. The words are those of `./walls xray`: *own*, *shared* with the machine, or *off*. *Predict: in how many
# lines is podman ahead?*

# %%
# NBVAL_IGNORE_OUTPUT
from thinwalls import beside

around = beside.show()

# %%
assert all(walls["pid"] == walls["mount"] == walls["net"] == "own" for walls in around.values())

# %% [markdown]
# (Started here by the machine's root. Where podman or bubblewrap is missing, its column is one that was recorded,
# and the last lines say so. While a stage is not built that your container cannot start without, there is no table, only
# a line that says which; while another is not, your column has fewer walls.)
#
# Three of the lines are new to you. *User ids*: whether its ids are others outside; without a user namespace they are not, so
# podman's are `off`. *Kernel files*: whether those of `/proc` and `/sys` that set or show the whole kernel are covered,
# or read-only. *Cgroup path*: whether it is in another cgroup than the machine's first process. (The line *cgroup* is
# about the namespace, by which it sees that group as `/`.)
#
# In none, as printed. It flatters you, though: two of your *own* are not your own. The user namespace (with its user
# ids) and the one filter of system calls are walls of the throwaway machine in which the course keeps your code. On a
# machine without it you would find the one `shared`, as podman's is here, and the other `off`. Then podman is ahead in
# one line, *seccomp*; and one that an ordinary user has started is ahead in *user* and *user ids* as well.
#
# ## What still does not stand
#
# Four walls of podman's have no counterpart here.
#
# *Users.* A podman that an ordinary user has started is in a user namespace: its uid 0 is a stranger outside.
# (Podman of the machine's root is not, unless told to: that is what its column says.) Your walls do not make one.
# Started by the root of a real machine, your uid 0 would be that root.
#
# *Capabilities.* You took one away, the worst. Podman takes all but eleven. Among those that you have left are
# the power to load modules into the kernel, to set the clock and to restart the machine. In the throwaway machine
# they are good for nothing. Given by the root of a real machine, they would be good for all that. (Bubblewrap takes
# none away from a root who has started it, and all of them from everybody else.)
#
# *seccomp.* Your container may make every system call that the throwaway machine lets through, several hundred, and
# each is a door into the one kernel that all share. Podman's filter leaves out some dozens of the rarest. More than
# one hole in the kernel lay behind a call that no honest program in a container had ever made, and with the filter
# nobody got that far. (Bubblewrap has a filter only if somebody gives it one.)
#
# *A label.* Where the machine has SELinux, or AppArmor and a podman that root has started, the container gets a
# label or a profile, by which the kernel refuses things even to a root, and even after all the rest has failed.
#
# One line goes the other way: *no_new_privs*, which podman leaves off unless it is asked. In your container a set-uid
# program makes nobody root. And one is `shared` in all of them, the clock's namespace, which hardly anybody uses.
#
# None of the four is magic, and you know now how to read about them: what does it take away, from whom, at which
# moment, and who could give it back? And a fifth thing is missing in every container, podman's too. It is the
# reason why people rent out virtual machines. There is one kernel. All that you have built are lists that it
# keeps, and comparisons that it makes; a virtual machine does not add a wall, it adds a kernel.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. You pull by tag, over https, and every digest is checked. Your registry has been taken over in the night.
#    Which of the digests that you have checked protect you?
# 2. A colleague unpacks layers in a container, as an ordinary user, and says that she can therefore use
#    `extractall` as it is. What is she right about? What can a hostile layer still do to her?
# 3. An image's last layer removes its build tools, 400 MB of them. How much smaller is the pull? How would you
#    really get rid of them?
# 4. A whiteout hides a name only from what lower layers have. Why must it not hide what its own layer has, given
#    that the order of entries in an archive means nothing?
# 5. A hundred containers of one image each write one line into the same log file of 10 MB. How much do they need,
#    together, beyond the image? And what if the log file is on a volume?
#
# <details><summary>Our answers</summary>
#
# 1. None of them. The tag led to a manifest that the registry chose, and all other digests stand in that one, so they
#    prove that you have got what it wanted you to have. Https proves that it was the registry who said so. A digest
#    protects you if you had it from somewhere else, or from an earlier day: `NAME@sha256:…` in place of a tag. And so
#    does a signature, by somebody who is not the registry.
# 2. She is right that `..` and links lead at worst to the `/` of that container, as long as its walls hold, and that
#    an ordinary user can give no file to root. But the layer can still fill her disk, write over whatever else is in
#    there (the store with her other images, a volume), and make a tree that is not the image's: what `extractall`
#    takes for a file named `.wh.shadow` was meant to remove one.
# 3. Not at all; it has grown by the whiteouts. The layer that has the tools is pulled as before, and then they are
#    hidden. They must never have been in a layer: remove them in the same step that installed them, or build in one
#    image and copy what came of it into another.
# 4. Both may be meant: a directory was removed, and one of the same name was made in its place. If a whiteout took
#    away what its own layer brings, the tree would depend on which entry comes first, and two programs that wrote
#    down the same change in another order would mean different things.
# 5. A gigabyte. To append a line to a file from the lower layer, overlayfs first copies the whole of it to the upper
#    one, and each container has its own. On a volume there is one file, and it grows by a hundred lines. But then
#    all of them can read it, and spoil it.
#
# </details>
#
# The runtime is complete, and the question with which stage 0 began can be answered with it: what does all this cost
# beside a virtual machine, and when is a container the dearer one?
# [Containers and machines](containers_and_machines.ipynb) measures it.
