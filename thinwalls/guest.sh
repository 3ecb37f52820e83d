#!/bin/bash
# What `./walls start --vm` runs in the virtual machine, as its root: guest.sh [PATIENCE COMMAND ...]; without, a shell.
export THINWALLS_PATIENCE=${1:-10} HOME=/run/thinwalls-home
mkdir -m 700 "$HOME"
unset XDG_CACHE_HOME XDG_RUNTIME_DIR
# Its controllers are to be had by the groups below its first, which has no limit of its own.
echo "+memory +pids +cpu" >/sys/fs/cgroup/cgroup.subtree_control
if [ $# -gt 1 ]; then
    shift
    exec "$@"
fi
PS1='throwaway:\w# ' exec bash --norc --noprofile -i
