#!/bin/bash
# What `./walls start --vm` runs in the virtual machine, as its root: guest.sh [COMMAND ...]; without, a shell.
# How much more time than usual the graders have is among the kernel's words: a shell is started without words of ours.
[[ $(</proc/cmdline) =~ thinwalls\.patience=([0-9]+) ]]
export THINWALLS_PATIENCE=${BASH_REMATCH[1]:-10} HOME=/run/thinwalls-home
mkdir -m 700 "$HOME"
unset XDG_CACHE_HOME XDG_RUNTIME_DIR
# Its controllers are to be had by the groups below its first, which has no limit of its own.
echo "+memory +pids +cpu" >/sys/fs/cgroup/cgroup.subtree_control
if [ $# -gt 0 ]; then exec "$@"; fi
PS1='throwaway:\w# ' exec bash --norc --noprofile -i
