"""The two programs in whose words a network is configured: ip(8) of iproute2, and nft(8) of nftables.

Both talk to the kernel by netlink(7). So could we; but these are the words that people know, and that a machine's
administrator would use. Each takes many commands at once, so that one process does for all of them.
"""

import subprocess

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ip(*commands: str) -> None:
    """Have ip(8) do each of these commands, such as "link set lo up", in the caller's network namespace.

    One after the other, up to the first that fails: then an OSError with ip's words. FileNotFoundError: there is no
    ip(8).
    """
    _tell("ip", "-batch", text="".join(f"{command}\n" for command in commands))


def nft(ruleset: str) -> None:
    """Have nft(8) load a ruleset, in the language of its man page, into the caller's network namespace.

    A rule ends at a newline or a semicolon, also the last one before a }. All of the ruleset is loaded, or nothing: then
    an OSError with nft's words. FileNotFoundError: there is no nft(8).
    """
    _tell("nft", "-f", text=ruleset)


def _tell(*argv: str, text: str) -> None:
    """Run a program that reads what it is to do from its standard input."""
    env = {"PATH": SEARCH, "LC_ALL": "C"}
    done = subprocess.run([*argv, "-"], input=text, capture_output=True, text=True, env=env)
    if done.returncode:
        raise OSError(f"{argv[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
