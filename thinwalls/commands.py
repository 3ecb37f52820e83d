"""The two programs that set up a network, ip(8) and nft(8), each told all it is to do at once.

Both are wrappers around netlink, the kernel's socket for this. They are used here because their words are those that
people know, and because they are on every Linux; a process of each costs a few milliseconds.
"""

import subprocess

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ip(*commands: str) -> None:
    """Have ip(8) do each of these commands, such as "link set lo up", in the caller's network namespace.

    One process does them all, one after the other, and stops at the first that fails: an OSError with ip's words.
    """
    run_tool("ip", "-batch", text="".join(f"{command}\n" for command in commands))


def nft(ruleset: str) -> None:
    """Have nft(8) load a ruleset, in the language of its man page: all of it, or nothing and an OSError with nft's words."""
    run_tool("nft", "-f", text=ruleset)


def run_tool(*argv: str, text: str) -> None:
    """Run a program that reads what it is to do from its standard input. An OSError with its words, if it fails."""
    env = {"PATH": SEARCH, "LC_ALL": "C"}
    done = subprocess.run([*argv, "-"], input=text, capture_output=True, text=True, env=env)
    if done.returncode:
        raise OSError(f"{argv[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
