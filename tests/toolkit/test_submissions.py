"""Submissions are found and read, whatever they are; nothing of them is unpacked or followed."""

import gzip
import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from thinwalls import course
from thinwalls.batch import submissions

NAME = "stage00_process.py"
TEXT = b"x = 1\n"


def a_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def a_tar(path: Path, *entries: tuple[str, bytes | bytes, bytes | str]) -> Path:
    """entries: name, type, and the data, or where a link leads."""
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if isinstance(data, str):
                entry.linkname = data
                archive.addfile(entry)
            else:
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def a_folder(path: Path, entries: dict[str, bytes]) -> Path:
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def problem(path: Path) -> str:
    content = submissions.read(path)
    assert content.files == {}
    return content.problem


@pytest.mark.parametrize("below", ["", "stages/", "thin-walls-main/stages/", "Anna's work/"])
def test_stage_files_are_found_anywhere_in_folders_zips_and_tars(tmp_path, below):
    entries = {f"{below}{NAME}": TEXT, f"{below}notes.txt": b"no", f".git/stages/{NAME}": b"old", "__MACOSX/x": b""}
    tar = a_tar(tmp_path / "a.tar.gz", *((name, tarfile.REGTYPE, data) for name, data in entries.items()))
    for path in (a_folder(tmp_path / "a", entries), a_zip(tmp_path / "a.zip", entries), tar):
        assert submissions.read(path) == submissions.Content({NAME: TEXT}), path


def test_a_whole_checkout_counts_by_its_folder_stages(tmp_path):
    a_folder(tmp_path, {f"c/stages/{NAME}": TEXT, f"c/solutions/{NAME}": b"y", f"c/tests/right/x/{NAME}": b"z"})
    assert submissions.read(tmp_path).files == {NAME: TEXT}


@pytest.mark.parametrize("folders", [("one/stages", "two/stages"), ("one", "two")])
def test_several_folders_of_stages_are_an_error_that_names_them(tmp_path, folders):
    path = a_zip(tmp_path / "a.zip", {f"{folder}/{NAME}": TEXT for folder in folders})
    assert all(repr(folder) in problem(path) for folder in folders)


def test_a_link_in_a_folder_is_not_followed_and_a_fifo_not_waited_for(tmp_path):
    other = course.stages()[1]
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / NAME).symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "stages" / f"{other.stem}.py")
    (tmp_path / "elsewhere").symlink_to("/")
    found = submissions.read(tmp_path)
    assert found.files == {NAME: submissions.LINK, f"{other.stem}.py": submissions.ODD}
    folder = tmp_path / "written"
    folder.mkdir()
    found.write(folder)
    with pytest.raises(course.Unreadable, match="is a symbolic link"):
        course.read_source(folder / NAME)
    with pytest.raises(course.Unreadable, match="is no regular file"):
        course.read_source(folder / f"{other.stem}.py")


def test_a_submission_that_is_a_link_is_refused(tmp_path):
    a_folder(tmp_path / "real", {NAME: TEXT})
    (tmp_path / "a").symlink_to("real")
    assert "symbolic link" in problem(tmp_path / "a")


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/cron.d/x", "stages/../../x", "C:/x"])
def test_an_entry_that_leads_out_of_its_archive_is_refused(tmp_path, name):
    zipped = a_zip(tmp_path / "a.zip", {f"stages/{NAME}": TEXT, name: b"x"})
    tar = a_tar(
        tmp_path / "a.tar.gz", (f"stages/{NAME}", tarfile.REGTYPE, TEXT), (name, tarfile.REGTYPE, b"x")
    )  # fmt: skip
    for path in (zipped, tar):
        assert "leads out of the archive" in problem(path)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_devices_is_refused(tmp_path, kind):
    assert "is a device" in problem(a_tar(tmp_path / "a.tgz", (NAME, tarfile.REGTYPE, TEXT), ("dev", kind, b"")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_tar_with_links_leads_nowhere(tmp_path, kind):
    path = a_tar(tmp_path / "a.tgz", ("stages", kind, "/etc"), (f"stages/{NAME}", tarfile.REGTYPE, TEXT))
    assert "goes through a link" in problem(path)
    path = a_tar(tmp_path / "b.tgz", (NAME, kind, "/etc/passwd"), (".venv/bin/python", kind, "/usr/bin/python"))
    assert submissions.read(path).files == {NAME: submissions.LINK}


def test_archives_that_are_broken_are_said_to_be(tmp_path):
    whole = a_zip(tmp_path / "whole.zip", {f"stages/{NAME}": TEXT * 100}).read_bytes()
    tar = a_tar(tmp_path / "whole.tar.gz", (NAME, tarfile.REGTYPE, random.Random(1).randbytes(20_000))).read_bytes()
    for data, why in [
        (b"", "empty"),
        (b"hello", "no archive"),
        (whole[:-30], "broken"),
        (whole.replace(TEXT * 3, b""), "broken|no"),
        (tar[: len(tar) // 2], "broken"),
        (gzip.compress(b"not a tar" * 200), "broken"),
        (gzip.compress(b""), "broken|no stage file"),
    ]:
        path = tmp_path / "broken.zip"
        path.write_bytes(data)
        if data != whole:
            assert any(word in problem(path) for word in why.split("|")), (data[:20], problem(path))


def test_an_encrypted_zip_is_said_to_be(tmp_path):
    data = bytearray(a_zip(tmp_path / "a.zip", {NAME: TEXT}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "is encrypted" in problem(tmp_path / "a.zip")


def test_a_stage_file_that_is_a_bomb_is_read_no_further_than_the_limit(tmp_path):
    path = a_zip(tmp_path / "a.zip", {NAME: bytes(200 * 2**20)})
    found = submissions.read(path)
    assert len(found.files[NAME]) == course.SOURCE_LIMIT + 1


def test_archives_that_unpack_to_too_much_or_too_many_are_refused(tmp_path, monkeypatch):
    path = a_tar(tmp_path / "a.tgz", ("zeros", tarfile.REGTYPE, bytes(300 * 2**20)), (NAME, tarfile.REGTYPE, TEXT))
    assert "unpacks to more than" in problem(path)
    monkeypatch.setattr(submissions, "MOST_ENTRIES", 100)
    many = {f"{number}": b"" for number in range(101)}
    assert "more than 100" in problem(a_zip(tmp_path / "b.zip", many))
    assert "more than 100" in problem(a_tar(tmp_path / "b.tgz", *((name, tarfile.REGTYPE, b"") for name in many)))
    assert "more than 100" in problem(a_folder(tmp_path / "b", many))


def test_a_header_that_asks_for_all_memory_costs_that_submission_only(tmp_path):
    """A PAX header is read whole by tarfile, whatever size it says it has."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 2**31
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as file:
        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(240):
            file.write(bytes(2**20))
    assert problem(tmp_path / "a.tgz")


def test_an_entry_that_is_there_twice_is_not_chosen_between(tmp_path):
    path = a_tar(tmp_path / "a.tgz", (NAME, tarfile.REGTYPE, TEXT), (NAME, tarfile.REGTYPE, b"y"))
    assert "twice" in problem(path)


def test_a_class_is_one_folder_of_submissions(tmp_path):
    a_folder(tmp_path / "anna", {f"deep/down/{NAME}": TEXT})
    a_zip(tmp_path / "ben.zip", {NAME: TEXT})
    (tmp_path / "cem.TAR.GZ").write_bytes(b"")
    (tmp_path / "dora.rar").write_bytes(b"Rar!")
    (tmp_path / "roster.csv").write_text("id\n")
    (tmp_path / ".DS_Store").write_text("")
    found, ignored = submissions.find([str(tmp_path)])
    assert [each.id for each in found] == ["anna", "ben", "cem", "dora.rar"]
    assert ignored == ["roster.csv"]


def test_a_folder_with_stage_files_is_one_submission(tmp_path):
    for inside in ("stages/", ""):
        a_folder(tmp_path / f"anna{len(inside)}", {f"{inside}{NAME}": TEXT})
        found, _ = submissions.find([str(tmp_path / f"anna{len(inside)}")])
        assert [each.id for each in found] == [f"anna{len(inside)}"]


def test_what_is_no_class_is_refused_with_a_sentence(tmp_path):
    a_zip(tmp_path / "anna.zip", {NAME: TEXT})
    a_folder(tmp_path / "anna", {NAME: TEXT})
    for named, words in [
        ([tmp_path / "nobody"], "there is no"),
        ([tmp_path], "would both be the submission 'anna'"),
        ([tmp_path / "anna.zip", tmp_path / "anna"], "would both be"),
    ]:
        with pytest.raises(submissions.Misnamed, match=words):
            submissions.find([str(each) for each in named])
    (tmp_path / "empty").mkdir()
    with pytest.raises(submissions.Misnamed, match="there is no submission"):
        submissions.find([str(tmp_path / "empty")])
