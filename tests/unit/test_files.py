"""Whatever stops a write, the old content stands and nothing else lies about."""

import errno
import os

import pytest

from crossbatch._files import recover_folder, replace_folder, write_beside
from crossbatch.errors import CrossbatchError


def full_disk(path):
    """Write half, then find no room."""
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_folder(path):
    full_disk(path / "a")


def names(folder):
    return [path.name for path in folder.iterdir()]


def tree(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_file_is_written_whole(tmp_path):
    place = tmp_path / "new" / "folder" / "x.txt"
    write_beside(place, lambda path: path.write_text("content"))
    assert place.read_text() == "content"
    assert tree(tmp_path) == {"new/folder/x.txt"}


def test_the_old_file_is_replaced_not_overwritten(tmp_path):
    place, link = tmp_path / "x.txt", tmp_path / "link"
    place.write_text("old")
    link.hardlink_to(place)
    write_beside(place, lambda path: path.write_text("new"))
    assert (place.read_text(), link.read_text()) == ("new", "old")


def test_the_temporary_name_keeps_the_suffix_and_the_folder(tmp_path):
    seen = []
    place = tmp_path / "x.parquet"
    write_beside(place, lambda path: seen.append(path) or path.write_text(""))
    assert seen[0].suffix == ".parquet"
    assert seen[0].parent == tmp_path
    assert seen[0] != place


def test_a_full_disk_leaves_the_old_file(tmp_path):
    place = tmp_path / "x.txt"
    place.write_text("old")
    with pytest.raises(
        CrossbatchError, match=r"Could not write .*x.txt: No space left.*Make room"
    ):
        write_beside(place, full_disk)
    assert place.read_text() == "old"
    assert tree(tmp_path) == {"x.txt"}


def test_a_full_disk_at_the_flush_leaves_the_old_file(tmp_path, monkeypatch):
    place = tmp_path / "x.txt"
    place.write_text("old")

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CrossbatchError, match="No space left"):
        write_beside(place, lambda path: path.write_text("new"))
    assert place.read_text() == "old"
    assert tree(tmp_path) == {"x.txt"}


def test_any_other_failure_passes_through_and_leaves_the_old_file(tmp_path):
    place = tmp_path / "x.txt"
    place.write_text("old")

    def write(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_beside(place, write)
    assert place.read_text() == "old"
    assert tree(tmp_path) == {"x.txt"}


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossbatchError, match=r"Could not write .*Nothing was changed there"):
        write_beside(tmp_path / "file" / "x.txt", lambda path: path.write_text("x"))


def fill(path, *, names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)


def test_a_folder_is_replaced_whole(tmp_path):
    place = tmp_path / "deep" / "run"
    replace_folder(place, lambda path: fill(path, names=["a", "sub/b"]))
    assert tree(tmp_path) == {"deep/run/a", "deep/run/sub/b"}
    replace_folder(place, lambda path: fill(path, names=["c"]))
    assert tree(tmp_path) == {"deep/run/c"}
    assert names(tmp_path / "deep") == ["run"]


def test_a_full_disk_leaves_the_old_folder(tmp_path):
    place = tmp_path / "run"
    replace_folder(place, lambda path: fill(path, names=["old"]))
    with pytest.raises(CrossbatchError, match=r"Could not write .*run: No space left"):
        replace_folder(place, full_disk_in_folder)
    assert tree(tmp_path) == {"run/old"}
    assert names(tmp_path) == ["run"]


def test_a_failing_second_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    place = tmp_path / "run"
    replace_folder(place, lambda path: fill(path, names=["old"]))
    rename = type(place).rename

    def refuse(path, target):
        if path.name.endswith(".part.run"):
            raise OSError(errno.EIO, "input/output error")
        return rename(path, target)

    monkeypatch.setattr(type(place), "rename", refuse)
    with pytest.raises(CrossbatchError, match="input/output error"):
        replace_folder(place, lambda path: fill(path, names=["new"]))
    assert tree(tmp_path) == {"run/old"}


def test_a_crash_between_the_renames_is_undone(tmp_path):
    place = tmp_path / "run"
    fill(tmp_path / ".run.old", names=["old"])
    recover_folder(place)
    assert tree(tmp_path) == {"run/old"}
    recover_folder(place)
    assert tree(tmp_path) == {"run/old"}


def test_replacing_after_such_a_crash(tmp_path):
    fill(tmp_path / ".run.old", names=["old"])
    replace_folder(tmp_path / "run", lambda path: fill(path, names=["new"]))
    assert tree(tmp_path) == {"run/new"}
    assert names(tmp_path) == ["run"]


def test_replacing_after_a_crash_before_the_old_folder_was_removed(tmp_path):
    fill(tmp_path / ".run.old", names=["older"])
    fill(tmp_path / "run", names=["old"])
    replace_folder(tmp_path / "run", lambda path: fill(path, names=["new"]))
    assert tree(tmp_path) == {"run/new"}
    assert names(tmp_path) == ["run"]
