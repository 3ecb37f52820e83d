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
# # Stage 2: namespaces begin
#
# The jail of stage 1 took the machine's files away from a program, and the program reached through the wall
# and killed a bystander. It needed nothing but a number. Processes do not live in the file system, so there
# was nothing for chroot to hide.
#
# What else is still the machine's behind that wall? The kernel can be asked. The next cell puts up the jail,
# and looks at who is in it.
#
# (Some two hours and a quarter, with the tasks. At the end you can say why a process has several numbers and all
# are right, what the first process of a container owes to the others, to which signals it is deaf, and why its end is
# the end of all. And your containers have an init. Without Jupyter: read `notebooks/stage02_pid_namespace.py`,
# build in any editor, and `./walls check 2` in a terminal. The cells' outputs come from
# `.venv/bin/python notebooks/stage02_pid_namespace.py`.)

# %%
import ctypes
import os
import signal
import time
from pathlib import Path

from thinwalls import linux
from thinwalls.notebook import check, demo, look
from thinwalls.standing import namespaces, started
from thinwalls.wall import Program, Wall

PATH = {"PATH": "/bin:/usr/bin"}


# %%
@demo(rootfs=True)
def behind_the_first_wall():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root

    class Looking(Wall):
        def inside(self):
            look(None, "root", "namespaces")

    launch(Program(["true"], PATH), [Root("/srv/rootfs"), Looking()])


# %% [markdown]
# A root directory of its own, and every one of its *namespaces* is shared. A namespace is one of the things
# that a process merely points to: a list of processes, a set of network cards, a host name. The kernel can
# make a second one of each kind, and let a process point to that. A flag to clone asks for it. Nothing is
# copied that weighs anything, and nothing is simulated: somebody looks at another list.
#
# So the walls of this stage are easily put up. What takes thought is what comes with the list of processes,
# whose first entry is a position of some consequence. We start with the smallest.
#
# ## Task 2.1: A host name of its own
#
# A jailed program that is uid 0 may well be allowed to rename the computer. *Predict: what is the machine
# called afterwards?*


# %%
@demo
def a_name_for_everybody():
    print("before:", os.uname().nodename)
    pid = linux.clone()
    if pid == 0:
        linux.sethostname("borrowed")
        os._exit(0)
    os.waitpid(pid, 0)
    print("after: ", os.uname().nodename)


# %% [markdown]
# There was one name, and all processes pointed to it. The namespace in which it is kept is called UTS, after
# the structure that uname(2) fills in, which is called after *Unix time-sharing system*, which nobody has
# said for a long while.
#
# The second wall of this task is against something you may never have used. Before there were pipes with
# names and shared files in memory, there was *System V IPC*: pieces of memory, semaphores and queues of
# messages that belong to no process and lie in no directory. They are known by a number, the *key*, and
# whoever knows a key can ask for the thing. Old databases still do. *Predict: who finds the memory with the
# key 42?*


# %%
def memory(flags=0):
    """Whether shmget(2) can give this process the shared memory with the key 42."""
    return ctypes.CDLL(None).shmget(42, 4096, flags | 0o600) >= 0


# %%
@demo
def a_key_under_every_mat():
    memory(flags=0o1000)  # IPC_CREAT: make it
    for whose, flags in (("the machine's", 0), ("its own", linux.CLONE_NEWIPC)):
        pid = linux.clone(flags)
        if pid == 0:
            print("a child whose IPC namespace is", whose, "finds the memory:", memory())
            os._exit(0)
        os.waitpid(pid, 0)


# %% [markdown]
# Even behind a chroot the first child would have found it, for a key is not a path. That is the pattern of
# all namespaces: something that can be named without a file needs a wall other than the file system's.
#
# **Build** `Uts` in [stages/stage02_pid_namespace.py](../stages/stage02_pid_namespace.py): the `flags` that a
# child has to be born with, and `inside`. The flags are one line of the class, above its methods, as `flags = 0`
# is in `Wall`. Your `launch` joins the flags of all walls, and clone does the rest. The order matters a little:
# whose name would it be if it were set in `outside`? Then `./walls check 2.1`, or:

# %%
check("2.1")

# %% [markdown]
# With yours, or ours where yours is not built yet:


# %%
@demo
def a_name_of_its_own():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Uts

    launch(Program(["cat", "/proc/sys/kernel/hostname"], PATH), [Uts("box")])
    print("and the machine is still called", os.uname().nodename)


# %% [markdown]
# ## Task 2.2: A table of process numbers of its own
#
# Now to the numbers. *Predict: what do the two children think of themselves, and of their parent?*


# %%
@demo
def who_am_i():
    print("I am", os.getpid())
    for flags in (0, linux.CLONE_NEWPID):
        pid = linux.clone(flags)
        if pid == 0:
            print("child:  I am", os.getpid(), "and my parent is", os.getppid())
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent: that was", pid)


# %% [markdown]
# The second child is number 1 to itself and number 4 to its parent, and both are right. A process has one
# number in the PID namespace it was born into, and another in each of those around it, up to the first, where
# your whole machine lives. The parent has no number at all in the child's namespace. The kernel still has to
# answer the question, and says 0, which nobody is.
#
# (This is also why clone must be told. A process can move into most kinds of namespace while it runs, but its
# own number must never change under it. So its PID namespace is settled at birth, for life.)
#
# All the numbers of a process are in its `status` file, on the line `NSpid`, from the outermost on. Here is a
# doll in a doll in a doll; each prints what the machine has to say about it.


# %%
def numbers():
    """What this process is called, in each PID namespace that it is in."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid"))


# %%
def open_up(depth):
    """Make a process in a PID namespace inside this one, and have it do the same."""
    pid = linux.clone(linux.CLONE_NEWPID)
    if pid == 0:
        print(f"depth {depth}:", numbers())
        if depth < 3:
            open_up(depth + 1)
        os._exit(0)
    os.waitpid(pid, 0)


# %%
@demo
def dolls():
    open_up(1)


# %% [markdown]
# Now the wall. It is not that the kernel forbids anything. To send a signal you have to say to whom, and the
# way to say it is a number. Numbers are looked up in the caller's own table. *Predict: what does the kernel
# answer when this child tries everybody up to 1000?*


# %%
@demo
def nobody_by_that_number():
    os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    for flags in (0, linux.CLONE_NEWPID):
        pid = linux.clone(flags)
        if pid == 0:
            found, answers = [], set()
            for number in range(1, 1001):
                try:
                    os.kill(number, 0)  # signal 0: only ask whether it could be sent
                    found.append(number)
                except OSError as error:
                    answers.add(error.strerror)
            print("there are", found, "and for all others the answer is:", *answers)
            os._exit(0)
        os.waitpid(pid, 0)


# %% [markdown]
# *No such process*. Not "you may not": the kernel does not know whom you mean. In the table of this namespace
# there is one entry, which is the child itself. This is the best sort of wall there is. What cannot be named
# cannot be asked for, in this system call or in any other that takes a process number, also in those that are
# added to the kernel next year.
#
# Here is the attack that ended stage 1, word for word, against the same jail with the new wall.


# %%
@demo(rootfs=True)
def a_hand_that_finds_nobody():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root
    from stages.stage02_pid_namespace import Pids

    bystander = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    script = "n=$PPID; while [ $n -lt 50 ]; do n=$((n + 1)); [ $n = $$ ] || kill -KILL $n; done 2> /dev/null"
    launch(Program(["sh", "-c", script], PATH), [Pids(), Root("/srv/rootfs")])
    look(bystander, "program")


# %% [markdown]
# The bystander sleeps on. But before we congratulate ourselves, a look at what the child would see if it
# asked `ps`. That program has no system call for its question, because there is none. It reads `/proc`, which
# has a directory for each process. *Predict: how many does this child see?*


# %%
@demo
def ps_lies():
    bystander = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    pid = linux.clone(linux.CLONE_NEWPID)
    if pid == 0:
        print("I am", os.getpid(), "but /proc says that I am", os.readlink("/proc/self"))
        print("/proc shows", *sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
        print("of", bystander, "it says", Path(f"/proc/{bystander}/cmdline").read_bytes())
        try:
            os.kill(bystander, signal.SIGKILL)
        except ProcessLookupError as error:
            print("and when I send it a signal:", error.strerror)
        os._exit(0)
    os.waitpid(pid, 0)


# %% [markdown]
# Everybody, under the numbers they have outside. `/proc` is a file system of its own kind, whose files the kernel
# makes up as they are read. To hang a file system up in the tree of files is called to *mount* it. This one shows the
# table of the one who mounted it, which was the machine. The child can read about processes that it cannot touch, their
# command lines with the passwords in them among other things, and it is told a number for itself that is not
# its own. The wall is there and a window has been left in it. It takes a file system of its own to close it.
# That is stage 3.
#
# **Build** the `flags` of `Pids`, and `pid_inside`, which gives a process's number in its own namespace to
# somebody who knows it by another. Then `./walls check 2.2`.

# %%
check("2.2")

# %% [markdown]
# ## Task 2.3: An init that reaps
#
# On a whole machine, process number 1 is called *init*. It is the first to be started and it starts all
# others. But the kernel does not leave it at an honour. Whoever is number 1 of a PID namespace, the machine's
# or any other, has three peculiarities. In our container that is, so far, the program that was to be run, a
# web server perhaps, and nobody has told it.
#
# The first is that it has children it never asked for. A process whose parent ends is an *orphan*, and an
# orphan needs a parent, since somebody has to be told of its end. *Predict: who becomes the parent of this
# one?*


# %%
@demo
def adopted():
    first = linux.clone(linux.CLONE_NEWPID)
    if first == 0:
        if os.fork() == 0:
            if os.fork() == 0:
                print("I am", os.getpid(), "and my parent is", os.getppid())
                os.kill(os.getppid(), signal.SIGKILL)
                while os.getppid() == 2:
                    time.sleep(0.001)
                print("my parent has died; now it is", os.getppid())
                os._exit(0)
            time.sleep(60)
        os.wait()  # for number 2
        os.wait()  # and for number 3, who is a child of ours by now
        os._exit(0)
    os.waitpid(first, 0)


# %% [markdown]
# Number 1 does, and is not asked. You know from stage 0 what a process owes to its children: to wait for
# them. One that has ended and was not waited for remains as a zombie, a line in the table.
#
# Most programs wait for the children they have started, and for no others, as is only reasonable. Below,
# number 1 runs a shell, waits for it like a good parent, and goes on with its work, which is to sleep. The
# shell has left three processes in the background. Each ends at once.


# %%
def residents(seconds=0.0):
    """Print who is in a PID namespace below this machine's, when so many seconds have passed."""
    time.sleep(seconds)
    found = []
    for status in sorted(Path("/proc").glob("[0-9]*/status"), key=lambda path: int(path.parent.name)):
        fact = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        number = fact["NSpid"].split()[-1]
        if number != status.parent.name:
            who = "number 1" if number == "1" else "another"
            end = ", a zombie" if fact["State"].startswith("Z") else ""
            found.append(f"    {who:<10}{fact['Name']}{end}")
    print("\n".join(found) or "    nobody")


# %%
@demo
def the_unwaited():
    pid = linux.clone(linux.CLONE_NEWPID)
    if pid == 0:
        shell = os.fork()
        if shell == 0:
            os.execvp("sh", ["sh", "-c", "(sleep 0 &); (sleep 0 &); (sleep 0 &)"])
        os.waitpid(shell, 0)
        os.execvp("sleep", ["sleep", "60"])
    residents(seconds=1)


# %% [markdown]
# Three zombies, and they will be there for as long as the container is. A web server that starts a script for
# every visitor collects them by the thousand, until the table is full and nobody can start anything. It is a
# common fault of containers in production, and a hard one to find, since no single program is doing anything
# wrong.
#
# The way out is to give the position to somebody who was made for it. In the last `inside` of all, when every
# other wall stands, the process forks once more. The child, number 2, goes on to become the program. The
# parent stays behind as number 1 and does what the position asks for, and nothing else: it waits, for anyone.
# Docker ships such a program and starts it if you say `--init`. Ours costs a fork.
#
# ![The fork of init, and two numbers for each process. A box for the machine, and in it a box for the container's PID
# namespace. The launcher, process 100 of the machine, has cloned process 101, which is PID 1 inside. In the last
# inside() of all, PID 1 forks. It stays as init: it waits for any child, and passes signals on. Its child, 102 of the
# machine and PID 2 inside, execs and is the program. The program has a child, 103 and PID 3, and leaves it an orphan:
# then PID 1 is its parent. When the program ends, PID 1 ends with its exit status, and the kernel kills whatever is
# left in the namespace. When the launcher dies, the kernel kills PID 1. The numbers of the machine are
# examples.](pictures/stage02_init.svg)
#
# Two things will trip you up. Who waits for anyone is told of everybody's end, of orphans that ended long
# before the program as well. Only one of these ends means that the container's work is done, and the status
# that init then ends with is the one that `launch` hands to its caller. And then there are the descriptors.
# Recall how the launcher learns that exec has worked: it reads from a pipe until nobody holds the other end.
# Init never calls exec. If it keeps that end, the launcher waits for as long as the container runs.


# %%
@demo
def an_end_that_does_not_come():
    for keeps in (False, True):
        reads, writes = os.pipe()  # close-on-exec, as in task 0.5
        init = linux.clone()
        if init == 0:
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "60"])  # the program starts: its end of the pipe is closed
            if not keeps:
                os.close(writes)
            time.sleep(60)
        os.close(writes)
        time.sleep(0.5)
        os.set_blocking(reads, False)  # where a read would wait, raise instead
        try:
            print("init keeps its end:", keeps, "and the launcher reads", os.read(reads, 1))
        except BlockingIOError:
            print("init keeps its end:", keeps, "and the launcher waits")


# %% [markdown]
# **Build** `reap` and `Init.inside`. What the docstring of `Init.inside` does not mention, signals, is the
# next task. Then `./walls check 2.3`.

# %%
check("2.3")

# %% [markdown]
# ## Task 2.4: Signals reach the program
#
# The second peculiarity. SIGTERM is the polite way to ask a program to end, and its default action is the
# end. Here it is sent to two sleepers that have made no arrangements. *Predict: what is left of each?*


# %%
@demo
def please_end():
    for flags in (0, linux.CLONE_NEWPID):
        pid = linux.clone(flags)
        if pid == 0:
            time.sleep(60)
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.5)
        look(pid, "program", "namespaces")


# %% [markdown]
# The first ended. The second is number 1 of its namespace, and noticed nothing. The kernel will not let the
# init of a machine die by accident, for reasons we shall come to, so it drops every signal whose default
# action would be taken. The sender is not told. What is dropped is only the *default*: who has a handler gets
# the signal, as everybody does.
#
# From inside its namespace not even SIGKILL, the one that cannot be caught, does anything:


# %%
@demo
def the_deaf():
    first = linux.clone(linux.CLONE_NEWPID)
    if first == 0:
        if os.fork() == 0:
            os.kill(1, signal.SIGKILL)
            print("number 2: I have sent SIGKILL to number 1, and nobody objected")
            os._exit(0)
        os.wait()
        print("number 1: yes?")
        time.sleep(60)
    time.sleep(1)
    os.kill(first, signal.SIGKILL)
    _, status = os.waitpid(first, 0)
    print("and from outside:", signal.Signals(os.WTERMSIG(status)).name)


# %% [markdown]
# You may have met this without knowing. `docker stop` sends SIGTERM, waits for ten seconds, and then sends
# SIGKILL. With a good many images those ten seconds always pass: the program would have ended at once, had it
# not been number 1.
#
# Our program is number 2, so it can be asked. But nobody outside asks it. They know of one process, the one
# that was launched, and that is init. So init has to hand on what it gets, and nothing may get lost on the way.
#
# A handler for every signal seems to be the thing. But there is a moment in which the program has been forked and
# the handlers are not in place: what arrives then is dropped. Handlers that are set before the fork are no
# answer, for a handler does not know the program's number yet. And there is a second such moment, a smaller one.
# Python runs a handler between two of its own instructions. A signal that comes after the last of them, and
# before `waitpid` sleeps, has been noted, and is handed on only when the *next* one wakes init up.
#
# For such moments there is a door that can be shut: a signal that is *blocked* waits outside, and the kernel
# keeps even a PID 1's. It can be let in later, or it can be asked for: `sigwait` sleeps until one of those it
# was told of stands at the door, takes it, and gives its number. *Predict: what is printed, and in which order?*


# %%
@demo
def at_the_door():
    door = {signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, door)
    os.kill(os.getpid(), signal.SIGHUP)
    print("I have sent SIGHUP to myself, and have no handler for it")
    print("I ask at the door:", signal.sigwait(door).name)
    for _ in range(2):
        if os.fork() == 0:
            os._exit(0)
    time.sleep(0.5)
    print("two children have ended, and I ask at the door:", signal.sigwait(door).name)
    print("still waiting there:", signal.sigpending() or "nobody")
    print("children to collect:", "one" if os.waitpid(-1, os.WNOHANG)[0] else "none")
    print("children to collect:", "one" if os.waitpid(-1, os.WNOHANG)[0] else "none")


# %% [markdown]
# A child's end is announced at the same door, as SIGCHLD, and two ends may be announced as one: there is a place
# at the door for each kind of signal, not for each signal. (The real-time signals, which have numbers for names, do
# queue.) How many have ended is for `waitpid` to say, which
# with `os.WNOHANG` does not wait: it gives 0 where there are children and none of them has ended.
#
# So there is one place to sleep, and both kinds of news come there: init sleeps in `sigwait`, hands a signal on,
# and at SIGCHLD goes to collect everyone who has ended. A shut door is inherited by children, and the program
# gets its own opened by your `furnish`, just before exec.
#
# **Build** `forward_signals`, let `reap` call it whenever there is nobody to collect, and shut the door in
# `Init.inside`, before the fork. Which signals to hand on is given, in `FORWARDED`.
# Then `./walls check 2.4`, and after it `./walls check 2`, for you have changed what task 2.3 proved.

# %%
check("2.4")

# %% [markdown]
# ## Task 2.5: Nothing survives the end
#
# The third peculiarity is why the kernel is so careful with number 1. Below it has two children. One cannot
# be asked to end, the other has left for a session of its own, so that no terminal that closes will take it
# along: this is how programs make sure to outlive the one who started them. Then number 1 ends. *Predict: who
# is left?*


# %%
@demo
def the_end_of_all():
    first = linux.clone(linux.CLONE_NEWPID)
    if first == 0:
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.execvp("sleep", ["sleep", "61"])
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "62"])
        os.execvp("sleep", ["sleep", "2"])
    print("before:")
    residents(seconds=1)
    os.waitpid(first, 0)
    print("after:")
    residents()


# %% [markdown]
# The kernel kills the whole namespace, and it does so before anybody is told of the end of number 1. When
# `waitpid` comes back, all are gone. Who on an ordinary Unix wants to end a program with everything it has
# started has to hunt for it, and there is always one that gets away. Here the kernel does it, and it costs
# you nothing: when the program ends, init ends.
#
# That leaves one who may end out of turn, the launcher. It is an ordinary process outside, and it may be
# killed like any other. *Predict: what becomes of the container?*


# %%
@demo
def the_one_who_goes_first():
    launcher = linux.clone()
    if launcher == 0:
        if linux.clone(linux.CLONE_NEWPID) == 0:
            os.execvp("sleep", ["sleep", "60"])
        time.sleep(60)
    time.sleep(1)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    residents()


# %% [markdown]
# It runs on, and the one who knew about it is gone. No `finally` in the launcher would have helped, for
# nobody gets to say anything after SIGKILL. Only the kernel can still act. A process may leave a wish with
# it: *when my parent dies, send me this signal*.


# %%
@demo
def a_last_wish():
    parent = linux.clone()
    if parent == 0:
        if linux.clone() == 0:
            signal.signal(signal.SIGUSR1, lambda number, frame: print("my parent has died, I am told"))
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGUSR1)
            time.sleep(60)
        time.sleep(60)
    time.sleep(0.5)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    time.sleep(0.5)


# %% [markdown]
# Who has to leave the wish, and for which signal, you can put together from the above: what does number 1
# hear, and from whom? It must be left by the process itself, in its `inside`, before it forks, for the wish
# is not inherited. If the launcher dies while the child still stands at the gate of task 0.4, the child reads
# the end of the pipe, and gives up. (Between the gate and the wish lies a moment that nothing covers. It is
# short.)
#
# **Build** `die_with_launcher`, and have `Pids.inside` call it. Then `./walls check 2.5`.

# %%
check("2.5")

# %% [markdown]
# ## Task 2.6: Attack: kill a process outside
#
# Back to the other side, and to the jail of stage 1 without the new wall. The attack at its end killed whatever
# had a number between its launcher's and fifty. A better attacker knows whom to hit. Your victim is a process of
# the machine that has a certain word among its arguments. You have not been told its number. Inside the jail,
# `/proc` is an empty directory.


# %%
@demo(rootfs=True)
def what_the_jail_shows():
    os.chroot("/srv/rootfs")
    os.chdir("/")
    print("in /proc there is", os.listdir("/proc") or "nothing", "and I am user", os.getuid())


# %% [markdown]
# Empty, but you have just read what `/proc` is: a file system, shown to whoever mounts it. And a jailed uid 0
# is uid 0. The arguments of process N are in `/proc/N/cmdline`, one after the other, with a zero byte behind
# each. Mind that the word has to be one whole argument: others may hold it as a part. Mind too that a process can be
# gone between the listing and the reading. (That happens too seldom for `./walls check` to wait for it. You come across
# yourself as well, and it does no harm: your arguments are the launcher's, and the word is not among them.)
#
# **Build** `kill_outside`. Then `./walls check 2.6`.

# %%
check("2.6")

# %% [markdown]
# This is what it looks like, first against the jail of stage 1, then with this stage's walls around it:


# %%
@demo(rootfs=True)
def the_treasurer():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root
    from stages.stage02_pid_namespace import Init, Pids, kill_outside

    class Attack(Wall):
        def inside(self):
            kill_outside("treasurer")

    silent, _ = os.pipe()
    victim = ["sh", "-c", "read line", "treasurer"]  # waits for a line that never comes
    for name, walls in (
        ("chroot alone", [Root("/srv/rootfs"), Attack()]),
        ("and Pids", [Pids(), Root("/srv/rootfs"), Attack(), Init()]),
    ):
        pid = os.posix_spawnp("sh", victim, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, silent, 0)])
        print(f"-- {name}")
        try:
            launch(Program(["true"], PATH), walls)
        except ProcessLookupError as error:
            print("the attack has failed:", error.strerror)
        look(pid, "program")


# %% [markdown]
# A signal needs a name, and there is none. Behind the wall the attacker mounts its `/proc` as before, and now
# sees the table of the one who mounts: itself.
#
# ## The walls as they now stand
#
# Here is a program behind everything you have built so far, and what the kernel says of it, beside the
# machine's own first process.


# %%
def standing(pid):
    """Print, for each kind of namespace and for the root directory, whether a process has its own."""
    namespaces(pid, "uts", "ipc", "pid", "mnt", "net", width=16)
    own = not os.path.samefile(f"/proc/{pid}/root", "/proc/1/root")
    print(f"    root directory  {'its own' if own else 'of the machine'}")


# %%
@demo(rootfs=True)
def the_walls():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root
    from stages.stage02_pid_namespace import Init, Pids, Uts

    # started() launches `sleep 60` behind walls, and gives the number by which the machine knows it
    standing(started(launch, Uts("box"), Pids(), Root("/srv/rootfs"), Init()))


# %% [markdown]
# ![The walls after stage 2: namespaces begin. Two columns, the machine and the process, with a wall between them. New
# in this stage: host name, IPC (its own; Uts); process numbers (its own, from PID 1; Pids, Init). Its own before: root
# directory (its own, by name only; Root). Still shared with the machine: mounts, /proc, /dev; power to mount; memory,
# CPU, forks; network; files of the rootfs; user ids; kernel, clock.](pictures/stage02_walls.svg)
#
# (`./walls xray PID`, in a terminal, draws this for any process of your machine, whoever made it.)
#
# ## What still does not stand
#
# Three things, and they are one. The old way out of the jail is as open as ever, since a root directory is
# still only a note. In every container with a `/proc` of the machine's, `ps` tells about everyone. And there
# is this. Below, the attack of the last task finds nobody to kill, and takes the way out of stage 1 instead.
# When the container has ended, we look at the machine. *Predict: what has been left behind?*


# %%
@demo(rootfs=True)
def what_it_left():
    from stages.stage00_process import launch
    from stages.stage01_chroot import Root, escape
    from stages.stage02_pid_namespace import Init, Pids, Uts, kill_outside

    class Attack(Wall):
        def inside(self):
            try:
                kill_outside("nobody at all")
            except ProcessLookupError:
                escape()
                look(None, "root")

    launch(Program(["true"], PATH), [Uts("box"), Pids(), Root("/srv/rootfs"), Attack(), Init()])
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, kind = line.split()[4], line.partition(" - ")[2].split()[0]
        if point.startswith("/srv"):
            print("mounted on the machine:", kind, "at", point)


# %% [markdown]
# It is out, and it has left a mount, on the machine, made from within a container that is no more. Everybody
# sees it, and nobody cleans it up. The table of what is mounted where is one more list that all processes
# point to. Further up it is the line that says `mounts`, and `of the machine`.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. A program behind `Pids` alone asks for its own number, hears 1, and leaves it in a file that it shares with a
#    service of the machine: *send me SIGTERM when the backup is done*. Whom does the service hit?
# 2. Somebody proposes a simpler wall: a rule in the kernel by which a container may call `kill` only for
#    processes that it has started. Why is a table of its own better, though it forbids nothing?
# 3. A program has a handler for SIGTERM, and none for SIGHUP. You launch it behind `Pids` alone, and behind
#    `Pids` and `Init`. Both signals are sent to the container, from outside. Which of the four arrive?
# 4. A program starts a helper in the background that needs a second more to write its file, and ends with 0.
#    Without walls the file is always whole. What becomes of it behind `Pids` and `Init`, and who decides
#    that?
# 5. The last wish in `die_with_launcher` could be SIGTERM, which is more polite. You try it with a program
#    that sleeps, kill the launcher, and nothing is left over. With which program does that go wrong?
#
# <details><summary>Our answers</summary>
#
# 1. The machine's own init, or nobody, if it may not. A number means something only in a table, and the
#    service looks it up in its own. It would need the number by which the machine knows the process. The
#    `NSpid` line has all of them.
# 2. There are many other calls that take the number of a process: to trace it, to slow it down, to read its
#    memory. Such a rule is needed in each of them, and in each that will be added. Somebody forgets one. What
#    has no number cannot be said in any.
# 3. Three. Number 1 gets the signal for which it has a handler, so SIGTERM arrives behind `Pids` alone.
#    SIGHUP is dropped there, as its default action would be taken, and the sender is not told. Behind `Init`
#    the program is number 2, both signals are handed on to it, and SIGHUP ends it: the exit status is 129.
# 4. It stays as it is at that moment, empty or half. When the program ends, init ends, and the kernel kills
#    all others in the namespace before anybody is told. Without walls the helper becomes an orphan, another
#    process adopts it, and it runs on.
# 5. With one that ignores SIGTERM or takes its time over it. Init gets the signal, hands it on, and waits.
#    Who would come back after ten seconds and send SIGKILL is dead. (SIGKILL from outside the namespace ends
#    number 1, whatever it thinks of it, and so everything.)
#
# </details>
#
# The table of mounts is a list that can be had twice. That is [stage 3](stage03_mount_namespace.ipynb), and it
# closes all three.
