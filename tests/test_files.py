"""Files and folders that are written whole: what stood there stands there until the new one has its name."""

import os
from pathlib import Path

import pytest
from tito import WorldError, files
from tito.files import staged


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a").write_text("old")
    return tmp_path / "adapter"


def write(folder, text="new"):
    with staged(folder, replace_folder=True) as place:
        place.mkdir()
        (place / "a").write_text(text)
        (place / "deep").mkdir()
        (place / "deep" / "b").write_text(text)


def told(folder):
    return {str(p.relative_to(folder.parent)): p.read_text() for p in folder.parent.rglob("*") if p.is_file()}


@pytest.fixture(params=["exchanged", "renamed"])
def way(request, monkeypatch):
    if request.param == "renamed":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


def test_a_folder_is_replaced_whole(folder, way):
    write(folder)
    write(folder, "newer")
    assert told(folder) == {"adapter/a": "newer", "adapter/deep/b": "newer"}
    assert os.listdir(folder.parent) == ["adapter"]


def test_a_name_that_is_not_given_leaves_the_older_folder(folder, way, monkeypatch):
    rename = Path.rename

    def full(self, target):
        if Path(target) == folder and self.name != "older":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    if way == "exchanged":
        # No moment in which the name stands for nothing.
        monkeypatch.setattr(Path, "rename", None)
        write(folder)
        assert told(folder)["adapter/a"] == "new"
        return
    with pytest.raises(WorldError, match="adapter: cannot write: No space left on device"):
        write(folder)
    assert told(folder) == {"adapter/a": "old"}
    assert os.listdir(folder.parent) == ["adapter"]


def test_an_older_folder_that_cannot_be_put_back_is_not_thrown_away(folder, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename

    def gone(self, target):
        if Path(target) == folder:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", gone)
    with pytest.raises(WorldError):
        write(folder)
    [kept] = [name for name in told(folder) if name.endswith("older/a")]
    assert told(folder)[kept] == "old"


def test_what_is_written_lies_on_disk_before_it_has_its_name(folder, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(number):
        name = os.readlink(f"/proc/self/fd/{number}")
        synced.append((os.path.relpath(name, folder.parent).partition("/")[2], (folder / "a").read_text()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    write(folder)
    before = [name for name, stands in synced if stands == "old"]
    assert sorted(before) == ["adapter", "adapter/a", "adapter/deep", "adapter/deep/b"]
    # The name itself, afterwards.
    assert synced[-1] == ("", "new")
