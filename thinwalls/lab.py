"""JupyterLab as ``./walls start`` opens it: at a lesson, in the course's folder, and asking nothing of a newcomer.

What the lab does differently from Jupyter's own defaults is in labconfig/default_setting_overrides.json; a learner's
own settings come first.
"""

import contextlib
import errno
import http.client
import importlib
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any, NamedTuple

from thinwalls import causes, course, notebook

FIRST_PORT, _PORTS = 8888, 50  # Jupyter's own first port, and how many after it are tried
_PATIENCE = 2.0  # seconds for a lab that may be running already to answer
SCREEN = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # one of them is set where a browser can be opened
_PLAIN, _DRAWING = "text/plain", "image/svg+xml"  # what the outputs of a lesson are made of
_DRAWN_WITH = {"svg", "title", "desc", "style", "rect", "path", "polyline", "text"}  # the elements of thinwalls.plot


class Running(NamedTuple):
    """A lab of this course that runs already: its process, and where it is."""

    pid: int
    url: str  # "http://localhost:8888/"
    token: str

    def address(self, path: str) -> str:
        """What to open in a browser. path: as address() gives it."""
        return f"{self.url.rstrip('/')}{path}" + (f"?token={self.token}" if self.token else "")


def address(stage: course.Stage | None) -> str:
    """The path of a stage's lesson in the lab; None, when all is built: of the lesson beside the stages."""
    notebook = f"notebooks/{(stage or course.lessons()[0]).stem}.ipynb"
    return f"/lab/tree/{notebook}" if (course.ROOT / notebook).exists() else "/lab"


def running() -> Running | None:
    """The lab that this user has open for this very folder, if there is one and it answers."""
    from jupyter_core.paths import jupyter_runtime_dir

    for file in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")):
        try:
            told: dict[str, Any] = json.loads(file.read_text())
            found = Running(int(told["pid"]), str(told["url"]), str(told["token"]))
            if os.path.realpath(told["root_dir"]) == str(course.ROOT) and _answers(found):
                return found
        # Not written by Jupyter, or its server is gone, and at its port is perhaps something else than HTTP.
        except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
            continue
    return None


def _answers(found: Running) -> bool:
    """Whether it is the server that wrote the file, and not another one at its old port: only that knows the token."""
    os.kill(found.pid, 0)
    asked = urllib.request.Request(f"{found.url}api/status", headers={"Authorization": f"token {found.token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business with localhost
    with direct.open(asked, timeout=_PATIENCE) as answer:
        return bool(answer.status == 200)


def no_browser(port: int) -> str:
    """Why no browser can be opened from here, and what to do about it; "" if one can."""
    if any(os.environ.get(name) for name in SCREEN):
        try:
            webbrowser.get()
            return ""
        except webbrowser.Error:
            return "No browser was found here: open the http address below in one."
    if not (there := os.environ.get("SSH_CONNECTION", "").split()):
        return "There is no screen here, so no browser is opened: open the http address below in one."
    _, _, host, ssh_port = there if len(there) == 4 else ("", "", socket.gethostname(), "22")
    option = "" if ssh_port == "22" else f"-p {ssh_port} "
    return (
        "You are here over SSH, and the browser is at your end. In a terminal there, let this run:\n"
        f"  ssh {option}-N -L {port}:localhost:{port} {causes.user()}@{host}\n"
        "Then open the http address below in your browser."
    )


def free_port() -> int:
    """The first port from FIRST_PORT on that nobody has on this machine's loopback; if all are taken, FIRST_PORT."""
    return next((port for port in range(FIRST_PORT, FIRST_PORT + _PORTS) if _free(port)), FIRST_PORT)


def _free(port: int) -> bool:
    try:
        places = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
    except OSError:  # nobody knows that name here; Jupyter, too, takes the address then
        places = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):  # others: there is no IPv6, say
                return False
    return True


def trust() -> None:
    """Let Jupyter show the lessons' drawings at once: to it, a notebook that came from elsewhere is a stranger's.

    Signed is a lesson as it was made, and nothing else: HTML of somebody else's would run on opening, as the learner.
    What Jupyter saves it signs itself, where the outputs are of cells that were run here.
    """
    sign = importlib.import_module("nbformat.sign")
    try:
        notary = sign.NotebookNotary()
        with contextlib.closing(notary.store):
            for stem in [*(stage.stem for stage in course.stages()), *(lesson.stem for lesson in course.lessons())]:
                if body := _as_made(course.ROOT / "notebooks" / f"{stem}.ipynb"):
                    notary.sign(body)
    except Exception as error:  # a home that may not be written to, say: the lab opens even so
        print(f"walls: Jupyter shows no drawing before its cell was run: {error}", file=sys.stderr)


def _as_made(made: Path) -> Any:
    """A notebook, if its cells are those of its .py and its outputs are text and drawings of ours; None: it is not so."""
    nbformat = importlib.import_module("nbformat")
    try:
        if saved(made) or notebook.differences(made.with_suffix(".py")):
            return None
        body = nbformat.read(made, as_version=4)
        shown = [output.get("data", {}) for cell in body.cells for output in cell.get("outputs", [])]
        return body if all(map(_cannot_run, shown)) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # damaged: Jupyter will say so
        return None


def _cannot_run(data: dict[str, str]) -> bool:
    """Whether an output, a text for each media type, is text or a drawing in which nothing can be run."""
    drawing = data.get(_DRAWING, "")
    elements = set(re.findall(r"</?([^\s/>]*)", drawing))
    handler = re.search(r"\bon\w+\s*=", drawing, re.IGNORECASE)  # onload="..."
    return set(data) <= {_PLAIN, _DRAWING} and elements <= _DRAWN_WITH and not handler


def saved(made: Path) -> bool:
    """Whether Jupyter has saved a notebook since it was made: what its cells are and print is a learner's, then.

    It saves by itself what is open, run or not, and always writes down what it knows of the kernel's language.
    """
    try:
        return bool(json.loads(made.read_text())["metadata"]["language_info"] != {"name": "python"})
    except (OSError, ValueError, LookupError, TypeError):
        return True


def environment() -> dict[str, str]:
    """This process's environment, with the course's settings for the lab."""
    places = [str(Path(__file__).parent), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, places))}


def command(path: str, port: int, browser: bool) -> list[str]:
    """The words that start JupyterLab. path: where it opens."""
    words = [
        *(sys.executable, "-P", "-m", "jupyterlab"),  # -P: the caller's folder may hold a jupyterlab.py of its own
        f"--ServerApp.root_dir={course.ROOT}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",  # with another port, what no_browser() has told would be wrong
        f"--LabApp.default_url={path}",
        "--LanguageServerManager.autodetect=False",  # it asks npm, which leaves a log in the learner's home
        *("--log-level=ERROR", "--LabApp.log_level=ERROR"),  # the address is told even so
    ]
    if os.geteuid() == 0:
        words.append("--allow-root")  # without it, Jupyter refuses
    if not browser:
        words.append("--no-browser")
    return words
