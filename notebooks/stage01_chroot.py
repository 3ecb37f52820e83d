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
# # Stage 1: chroot
#
# A program that was launched without walls read a letter that was none of its business, and threw it away. It
# needed no trick. It said `/root/letter`, and the kernel went and looked.
#
# Went from where? A path that begins with `/` is a description of a way, and a way needs a place to start. We
# speak of *the* root directory as if there were one. There is one for each process: the kernel keeps, for
# each of them, a note of where its ways begin. A second note says where those begin that do not start with
# `/`, and that is the working directory.
#
# (Some eighty minutes, with the tasks. At the end you can say how one Linux runs on the kernel of another, why a file
# that is there may be *not found*, and what exactly chroot takes away from a program. And you have a container with
# its own files, and a way out of it. Without Jupyter: read `notebooks/stage01_chroot.py`, build in any editor, and
# `./walls check 1` in a terminal. The cells' outputs come from `.venv/bin/python notebooks/stage01_chroot.py`.)

# %%
import os
import shutil
import signal
from pathlib import Path

from thinwalls.notebook import check, demo, look
from thinwalls.wall import Program, Wall


# %%
@demo
def two_notes():
    os.chdir("/tmp")
    look(None, "root", "cwd")


# %% [markdown]
# Every child inherits both notes from its parent. That is why all the processes on your computer agree on
# what `/etc/passwd` is: somebody at the very beginning had a `/`, and nobody has objected since.
#
# A process may object. The call is `chroot`, *change root*, and it is nearly as old as Unix. What it needs is
# a directory that can pass for a whole system. On these pages there is a small one at `/srv/rootfs`, made of
# a few programs of your own machine and the libraries they need. Such a directory is called a *root file
# system*, a rootfs for short. The image you get from a registry is one of these, packed.
#
# *Predict: whose `/bin` is listed by the next cell?*


# %%
@demo(rootfs=True)
def another_root():
    Path("/tmp/letter").write_text("Dear diary, nobody will ever read this.\n")
    print("the letter exists:", os.path.exists("/tmp/letter"))
    os.chroot("/srv/rootfs")
    print("the letter exists:", os.path.exists("/tmp/letter"))
    print(*sorted(os.listdir("/bin")))
    print(Path("/etc/os-release").read_text().strip())


# %% [markdown]
# The file is where it was, and it has lost its name: no path that begins with `/` leads there any more. And
# what it is told about the system it runs on, `/etc/os-release`, is what the rootfs says. This is how Debian
# runs on Fedora in a container. The kernel is Fedora's. All the rest, from the shell to the C library, is
# files, and the files are Debian's.
#
# (Only the user with the number 0 may call chroot, as a rule. That is the administrator, who is called *root*,
# as the directory is; so we say *uid 0*. In a throwaway host that is you, whoever you are outside. How this
# can be allowed to somebody without any rights on the machine is a later story.)
#
# ## Task 1.1: Another directory for /
#
# There were two notes, and chroot changed one. The manual page says so in passing: *this call does not change
# the current working directory of the calling process*. Most people who build their first container read past
# it.
#
# *Predict: the process below has entered the rootfs. Can it read the letter?*


# %%
@demo(rootfs=True)
def one_note_forgotten():
    Path("/tmp/letter").write_text("Dear diary, nobody will ever read this.\n")
    os.chdir("/srv")
    os.chroot("/srv/rootfs")
    look(None, "root", "cwd")
    print("/tmp/letter exists:  ", os.path.exists("/tmp/letter"))
    print("../tmp/letter exists:", os.path.exists("../tmp/letter"))


# %% [markdown]
# The door is locked, and the process stands outside of it, with its working directory where it always was.
# Paths that begin with `/` begin in the rootfs. All others begin in the machine.
#
# **Build** `Root.inside` in [stages/stage01_chroot.py](../stages/stage01_chroot.py): your first wall. It is
# an `inside`, since a process can change these notes only for itself. And it must be the child that does it.
# Were it the caller, the whole course would find itself in the rootfs from then on. Then
# `./walls check 1.1`, or:

# %%
check("1.1")

# %% [markdown]
# ## Task 1.2: Its own PATH, its own files
#
# In stage 0 you wrote a search through PATH. Whether it still does the right thing depends on when it is
# made.


# %%
@demo(rootfs=True)
def before_and_after():
    path = "/bin:/usr/bin"
    print("before: uname is found:", shutil.which("uname", path=path) is not None)
    os.chroot("/srv/rootfs")
    os.chdir("/")
    print("after:  uname is found:", shutil.which("uname", path=path) is not None)
    print("after:  cat is found:  ", shutil.which("cat", path=path))


# %% [markdown]
# Looked up before the wall stands, the name leads to a file of the machine, which inside may be another file
# or none. Looked up after, it leads to the container's. The same holds for everything with a name: libraries,
# time zones, user names, Python modules. In 2019 `docker cp` entered a container's root and only then loaded
# a library, and so it loaded the container's, and ran it with the rights of the machine's administrator
# (CVE-2019-14271). This is why `inside` imports nothing.
#
# The environment comes from the other direction. PATH, HOME and the rest describe the caller's house, and
# whatever tokens and passwords lie about in it. A container gets an environment of its own.
#
# **Build** `run_in`, which puts it together: a rootfs, a command, an environment, and the launcher of stage
# 0. It is short. If the program is not in the rootfs, what `launch` raises is what the caller should get.
# Then `./walls check 1.2`.

# %%
check("1.2")

# %% [markdown]
# Your container, or ours where yours is not built yet:


# %%
@demo(rootfs=True)
def a_container():
    from stages.stage01_chroot import run_in

    print("exit status", run_in("/srv/rootfs", ["sh", "-c", "pwd; echo /*/cat; exit 7"]))
    print("exit status", run_in("/srv/rootfs", ["env"], {"PATH": "/bin", "GREETING": "hello"}))


# %% [markdown]
# ## Task 1.3: The right error for a wrong root
#
# A wrong path is the most common mistake there is, so it deserves a good answer. The kernel has one:


# %%
@demo
def wrong_roots():
    for path in ("/srv/rotfs", "/etc/passwd"):
        try:
            os.chroot(path)
        except OSError as error:
            print(f"{type(error).__name__}: {error.strerror}: {error.filename}")


# %% [markdown]
# It comes late, though. By the time `inside` calls chroot there is a child, and other walls have been at work
# outside: a network has been plugged in, a limit set. All that is taken down again, for a typing error. A
# wall that looks at its path when it is *made* saves the trouble. While it looks, it can also follow symbolic
# links to the end, once, so that a link that is changed later does not matter.
#
# **Build** `check_rootfs`, and have `Root` call it when it is made. Then `./walls check 1.3`.

# %%
check("1.3")

# %% [markdown]
# There is one error about roots that no check of this kind will catch, and you will meet it. Here is a rootfs
# with nothing in it but a shell. *Predict: what does the kernel answer?*


# %%
@demo
def a_shell_alone():
    os.makedirs("/srv/bare/bin")
    shutil.copy("/bin/sh", "/srv/bare/bin/sh")
    os.chroot("/srv/bare")
    os.chdir("/")
    print("/bin/sh exists:", os.path.exists("/bin/sh"), "and may be executed:", os.access("/bin/sh", os.X_OK))
    try:
        os.execve("/bin/sh", ["sh"], {})
    except OSError as error:
        print(f"{type(error).__name__}: {error.strerror}: {error.filename}")


# %% [markdown]
# *No such file or directory*, about a file that is there. People have lost afternoons over this sentence. It
# is not about the shell. Most programs are not complete: they name a second program, the *loader*, which the
# kernel is to start in their stead and which then fetches the libraries. The path is written near the
# beginning of the file, and it is looked up in the new root, as everything is.


# %%
@demo
def the_file_that_is_missing():
    start = Path("/bin/sh").read_bytes()[:4096]
    loader = next(word for word in start.split(b"\0") if word.startswith(b"/")).decode()
    print("the shell names a file with 'ld' in its name:", "ld" in os.path.basename(loader))
    print("it exists here:", os.path.exists(loader))
    os.makedirs("/srv/bare")
    os.chroot("/srv/bare")
    print("it exists in the bare root:", os.path.exists(loader))


# %% [markdown]
# A script whose first line names an interpreter that is missing gives the same answer, for the same reason.
# So does a program for one C library in a rootfs that has another, which is what happens to a program from
# Debian in an image of Alpine. When the kernel denies a file that you can see, ask what that file asks for.
#
# ## Task 1.4: Attack: out of the jail
#
# A process behind this wall cannot say the name of anything outside. It is uid 0, though. What is left to it?
#
# Think about `..` for a moment. In most directories it means the one above. In the root directory it has to
# mean the root itself, or every process could climb out by saying `..` often enough. So for each step the
# kernel compares: is the directory I am in the root of this process? Then `..` stays. That comparison is the
# whole wall.
#
# Recall the process that stood outside its own root, in task 1.1. It climbed as it liked. No directory on
# its way was ever the one that the kernel compares with. `Root` takes care that nobody starts like this. But
# it is over once it is done, and the jailed program goes on to live in there, with all the calls there are.
#
# One more fact, and you have everything you need. A process that enters a root within a root:


# %%
@demo(rootfs=True)
def a_root_within_a_root():
    os.chroot("/srv/rootfs")
    os.chdir("/")
    look(None, "root", "cwd")
    os.chroot("/tmp")
    os.chdir("/")
    look(None, "root", "cwd")


# %% [markdown]
# There is one note for the root, not a pile of them. The second chroot has overwritten the first, and that
# there ever was a first is written nowhere.
#
# **Build** `escape`. It is called inside, as uid 0, and when it returns the process has the machine's own
# root and stands in it. Nobody outside helps. Then `./walls check 1.4`: the secret it has to read is put
# there only after the wall stands.

# %%
check("1.4")

# %% [markdown]
# This is what it looks like (with ours, if you want to see it happen before you find out how):


# %%
@demo(rootfs=True)
def out_of_the_jail():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root, escape

    class Attack(Wall):
        def inside(self):
            look(None, "root", "cwd")
            escape()
            look(None, "root", "cwd")

    Path("/tmp/letter").write_text("Dear diary, nobody will ever read this.\n")
    launch(Program(["/bin/cat", "/tmp/letter"]), [Root("/srv/rootfs"), Attack()])


# %% [markdown]
# Nothing was broken, and there is no bug to report: each call did what its manual page says. chroot was made
# in order to build and try out a system in a directory, beside the running one. It hides names. It takes
# nothing away: not the right to call chroot once more, not the directory the process may still be standing
# in. For forty years people have used it as a prison, and for forty years prisoners have walked out.
#
# The hole is closed in stage 3, where the machine's file system is not hidden from the program but detached
# from it, so that there is no outside to climb to.
#
# ## What else is shared?
#
# And files are only the beginning. The next program stays in its jail; it does not escape. It merely tries some
# numbers: those above its parent's, to spare the launcher, and not its own. *Predict: what becomes of the bystander,
# a process outside that has nothing to do with any of it?*


# %%
@demo(rootfs=True)
def a_hand_through_the_wall():
    from stages.stage01_chroot import run_in

    bystander = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    script = "n=$PPID; while [ $n -lt 50 ]; do n=$((n + 1)); [ $n = $$ ] || kill -KILL $n; done 2> /dev/null"
    run_in("/srv/rootfs", ["sh", "-c", script])
    _, status = os.waitpid(bystander, 0)
    print("the bystander was killed by", signal.Signals(os.WTERMSIG(status)).name)


# %% [markdown]
# Processes do not live in the file system. They have numbers, and there is one list of numbers for everybody.
# Whoever is uid 0 can send a signal to any number on it. The whole list is to be seen in `/proc`, a directory that
# the kernel fills, and there `ps` looks it up. The rootfs has nothing in its `/proc`, and guessing was enough.
#
# ![The walls after stage 1: chroot. Two columns, the machine and the process, with a wall between them. New in this
# stage: root directory (its own, by name only; Root). Still shared with the machine: host name, IPC; process numbers;
# mounts, /proc, /dev; power to mount; memory, CPU, forks; network; files of the rootfs; user ids; kernel,
# clock.](pictures/stage01_walls.svg)
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. A program has a file of the machine open, and a directory of the machine too. Then it calls chroot and
#    `chdir("/")`. What can it still do with each of the two?
# 2. Two lines do the work of `Root.inside`. Somebody writes `chdir(rootfs)` and `chroot(".")`, somebody else
#    `chdir("/")` and `chroot(rootfs)`. Which of these is as good as yours, and what is wrong with the other?
# 3. In a rootfs of Debian on a machine with Fedora, `cat /etc/os-release` says Debian, and the kernel's
#    version is Fedora's. Which of the two is a lie? And what would a virtual machine with Debian say?
# 4. You copy a program into an empty rootfs, and it does not start. A friend copies another, and it does.
#    Both files are there, and both may be executed. What can the difference be?
# 5. Your `escape` calls chroot. Why is `chdir("..")`, often enough, no way out without that? And would it
#    have helped to forbid the prisoner to make directories?
#
# <details><summary>Our answers</summary>
#
# 1. It can read the file on. A descriptor is the thing itself, and chroot takes away names. The file leads
#    nowhere else. The directory does: `fchdir` makes it the working directory, and that is outside the new
#    root, so `..` climbs as far as it likes. For that reason a launcher hands on no descriptor that was not
#    asked for.
# 2. The first is as good. The working directory is the rootfs already when that becomes the root. With the
#    second the root is right, and the working directory is the machine's own `/`: every path without a slash
#    in front begins out there.
# 3. Neither. One is a file, and the file is Debian's. The other is what the kernel says of itself, and the
#    kernel is the one that runs on this machine. A virtual machine with Debian says Debian twice, for it has
#    started a kernel of its own.
# 4. The friend's may be complete. Most programs name a loader, and its path is looked up in the new root,
#    where there is none. A program that was built together with its libraries names none. (Such programs are
#    called *statically linked*.)
# 5. In the directory that is the root of the process `..` stays where it is. Starting inside, one always
#    comes by there. The second chroot moves that mark to where the process is not, and then nothing stops it.
#    To make a directory is a convenience: any directory of the rootfs will do, `/bin` for instance. What it
#    cannot do without is the right to call chroot.
#
# </details>
#
# In [stage 0](stage00_process.ipynb) you saw a child whose `pid` namespace was its own. What would that child
# have found, had it counted? That is [stage 2](stage02_pid_namespace.ipynb).
