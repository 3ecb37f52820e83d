"""What ./walls start finds out before JupyterLab is there: a lab that runs, a port, a browser, a lesson."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import threading
import webbrowser
from pathlib import Path

import nbformat
import pytest
from nbformat import sign

from thinwalls import causes, cli, course, doctor, lab, notebook, plot, prove

TOKEN = "0123"


@pytest.fixture(autouse=True)
def nobody_is_there(monkeypatch, tmp_path):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))


# A browser


def test_where_there_is_a_screen_and_a_browser_it_is_opened(monkeypatch):
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(webbrowser, "get", lambda: None)
    assert lab.no_browser(8888) == ""


def test_without_a_browser_and_without_a_screen_the_address_is_to_be_opened_elsewhere(monkeypatch):
    assert lab.no_browser(8888).startswith("There is no screen here")

    def none():
        raise webbrowser.Error

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", none)
    assert lab.no_browser(8888).startswith("No browser was found here")


@pytest.mark.parametrize(
    ("connection", "command"),
    [
        ("10.0.0.2 50000 10.0.0.1 22", "ssh -N -L 8889:localhost:8889 learner@10.0.0.1"),
        ("fe80::2 50000 fe80::1 2222", "ssh -p 2222 -N -L 8889:localhost:8889 learner@fe80::1"),
        ("UNKNOWN", f"ssh -N -L 8889:localhost:8889 learner@{socket.gethostname()}"),
    ],
)
def test_over_ssh_the_command_that_brings_the_lab_to_the_other_end_is_told(monkeypatch, connection, command):
    monkeypatch.setenv("SSH_CONNECTION", connection)
    monkeypatch.setattr("getpass.getuser", lambda: "learner")
    assert command in lab.no_browser(8889).splitlines()[1].strip()


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("No username set in the environment")])
def test_a_user_without_a_name_is_told_to_put_one_in(monkeypatch, error):
    def nobody():
        raise error  # the first up to Python 3.12, the other since

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 50000 10.0.0.1 22")
    assert "ssh -N -L 8889:localhost:8889 USER@10.0.0.1" in lab.no_browser(8889)
    monkeypatch.setattr(causes.Path, "exists", lambda path: True)
    assert "USER" in causes.one_id().mend


def test_a_port_that_is_taken_is_passed_over(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(lab, "FIRST_PORT", taken.getsockname()[1])
        assert lab.free_port() > lab.FIRST_PORT
        monkeypatch.setattr(lab, "_PORTS", 1)
        assert lab.free_port() == lab.FIRST_PORT  # Jupyter will say what it finds there


def test_without_the_name_localhost_a_port_is_found_at_its_address(monkeypatch):
    known = socket.getaddrinfo

    def unknown(host, *more, **options):
        if host == "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(lab, "FIRST_PORT", taken.getsockname()[1])
        assert lab.free_port() > lab.FIRST_PORT


@pytest.mark.slow
def test_the_port_that_was_told_is_the_port_or_the_lab_does_not_start(tmp_path):
    """Somebody may take it in between."""
    environment = lab.environment() | {"HOME": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = lab.command("/lab", port, browser=False)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 1
    assert f"could not be started because port {port} is not available" in ended.stderr


# A lab that runs already


@pytest.fixture
def server():
    """Somebody at a port, who lets in those with the token; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/api/status" and self.headers["Authorization"] == f"token {TOKEN}"
            self.send_response(200 if known else 403)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_port
        listening.shutdown()
        thread.join()


def told(tmp_path, port, **other):
    """What a Jupyter server leaves in its runtime directory."""
    says = {"pid": os.getpid(), "url": f"http://127.0.0.1:{port}/", "token": TOKEN, "root_dir": str(course.ROOT)}
    (tmp_path / "jpserver-1.json").write_text(json.dumps(says | other))


def test_a_lab_of_this_course_that_answers_is_found_and_not_started_again(tmp_path, server, monkeypatch, capsys):
    told(tmp_path, server)
    found = lab.running()
    assert found.address("/lab/tree/x.ipynb") == f"http://127.0.0.1:{server}/lab/tree/x.ipynb?token={TOKEN}"
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it is started again"))
    assert cli.main(["start"]) == 0
    said = capsys.readouterr().out
    assert f"JupyterLab is open already (process {os.getpid()})" in said
    assert found.address(lab.address(course.stages()[0])).split("/notebooks/")[0] in said


@pytest.mark.parametrize(
    "other",
    [
        {"root_dir": "/srv/another/course"},
        {"token": "its token was another one"},
        {"pid": 2**22 + 1},
        {"pid": None},
        {"url": "file:///etc/passwd?"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_is_not_this_lab_or_no_more_is_not_taken_for_it(tmp_path, server, other):
    told(tmp_path, server, **other)
    assert lab.running() is None


def test_who_speaks_no_http_at_the_old_port_of_a_lab_is_no_lab(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told(tmp_path, listening.getsockname()[1])

        def greet():
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"220 mail.example.org\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            assert lab.running() is None
        finally:
            thread.join()


def test_a_file_that_makes_no_sense_is_no_lab(tmp_path):
    (tmp_path / "jpserver-1.json").write_text("[]")
    (tmp_path / "jpserver-2.json").write_text("{")
    assert lab.running() is None


# What is opened


def test_when_all_is_built_the_lesson_beside_the_stages_is_opened():
    assert lab.address(None) == "/lab/tree/notebooks/containers_and_machines.ipynb"
    assert lab.address(course.stages()[1]) == "/lab/tree/notebooks/stage01_chroot.ipynb"


def test_without_jupyterlab_one_sentence_and_status_3(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "examine", lambda: pytest.fail("examined for nothing"))
    assert cli.main(["start"]) == 3
    assert "JupyterLab is not installed here; call the course as ./walls" in " ".join(capsys.readouterr().err.split())


def test_a_notebook_that_jupyter_saved_is_told_from_one_that_was_made(tmp_path):
    made = tmp_path / "stage01_chroot.ipynb"
    made.write_text(notebook.blank(course.ROOT / "notebooks" / "stage01_chroot.py"))
    assert not lab.saved(made)
    body = json.loads(made.read_text())
    body["metadata"]["language_info"] = {"name": "python", "version": "3.12.3"}
    made.write_text(json.dumps(body))
    assert lab.saved(made)
    made.write_text("{")
    assert lab.saved(made)


def test_a_lesson_that_jupyter_saved_is_proved_from_its_source_and_the_others_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "notebooks").mkdir()
    for stem in ("made", "saved"):
        (tmp_path / "notebooks" / f"{stem}.py").write_text(f"# %%\nprint('{stem}')\n")
        text = notebook.blank(tmp_path / "notebooks" / f"{stem}.py")
        if stem == "saved":  # a learner has tried something in it, too
            text = text.replace('"language_info": {', '"language_info": {"version": "3.12.3", ').replace(
                "print", "raise"
            )
        (tmp_path / "notebooks" / f"{stem}.ipynb").write_text(text)
    ran = []

    def run(option, *files):
        cells = [json.loads(path.read_text())["cells"] for file in files for path in sorted(_notebooks(Path(file)))]
        ran.append((option, [cell["source"] for each in cells for cell in each]))
        return lambda: (1, 0)

    proof = prove.Proof(full=False)
    monkeypatch.setattr(proof, "pytest", run)
    proof.notebooks()
    assert ran == [("--nbval", ["print('made')"]), ("--nbval-lax", ["print('saved')"])]
    assert list((tmp_path / ".thinwalls").iterdir()) == []
    monkeypatch.setenv("CI", "true")
    proof.notebooks()
    assert ran[2] == ("--nbval", ["print('made')", "raise('saved')"]), "CI compares whatever is there"
    assert proof.end() == 0


def _notebooks(place):
    return place.glob("*.ipynb") if place.is_dir() else [place]


# What is signed


DRAWN = plot.Plot("a & b", "ms", "at once", {"fork": [(1, 2), (2, 4)]}).svg()


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson of one cell, whose output has what is handed to this: a representation for each media type."""
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "notebooks").mkdir()

    def write(stem="stage01_chroot", **data):
        source = tmp_path / "notebooks" / f"{stem}.py"
        source.write_text("# %%\nprint('made')\n")
        body = json.loads(notebook.blank(source))
        data = {name.replace("_", "/").replace("svg", "svg+xml"): text for name, text in data.items()}
        body["cells"][0]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
        made = source.with_suffix(".ipynb")
        made.write_text(json.dumps(body))
        return made

    return write


def signed(made):
    with contextlib.closing(sign.NotebookNotary()) as notary:
        return notary.check_signature(nbformat.read(made, as_version=4))


def test_the_lessons_are_signed_as_they_were_made(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    ours = [made for made in (course.ROOT / "notebooks").glob("*.ipynb") if not lab.saved(made)]
    lab.trust()
    assert [made.name for made in ours if not signed(made)] == []


def test_a_drawing_is_signed_and_what_may_run_on_opening_is_not(lesson):
    good = lesson(text_plain="a table", image_svg=DRAWN)
    lab.trust()
    assert signed(good)
    for data in (
        {"text_html": "<img src=x onerror=alert(1)>"},
        {"application_javascript": "alert(1)"},
        {"image_svg": DRAWN.replace("<title>", "<script>alert(1)</script><title>")},
        {"image_svg": DRAWN.replace("<svg ", '<svg onload="alert(1)" ')},
        {"image_svg": DRAWN.replace("<title>", "<![CDATA[<script>alert(1)</script>]]><title>")},
    ):
        bad = lesson(text_plain="a table", **data)
        lab.trust()
        assert not signed(bad), data


def test_what_is_not_the_lesson_as_it_was_made_is_not_signed(lesson):
    changed, strange = lesson(image_svg=DRAWN), lesson("from_somebody", image_svg=DRAWN)
    saved = lesson("stage02_pid_namespace", image_svg=DRAWN)
    changed.write_text(changed.read_text().replace("print", "raise"))
    saved.write_text(saved.read_text().replace('"language_info": {', '"language_info": {"version": "3.12.3", '))
    lab.trust()
    assert not any(map(signed, (changed, strange, saved)))


def test_a_damaged_lesson_does_not_keep_the_others_from_being_signed(lesson, capsys):
    good = lesson("stage06_image_pull", image_svg=DRAWN)
    for number, text in enumerate(["{", '{"metadata": {"language_info": {"name": "python"}}}']):
        lesson(course.stages()[number].stem).write_text(text)
    lab.trust()
    assert signed(good)
    assert capsys.readouterr().err == ""


def test_where_nothing_can_be_signed_the_lab_is_opened_even_so(lesson, tmp_path, capsys):
    lesson(image_svg=DRAWN)
    (tmp_path / "data").write_text("no folder")
    lab.trust()
    assert "Jupyter shows no drawing before its cell was run" in capsys.readouterr().err
