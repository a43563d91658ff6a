"""pytest tests/test_writing.py: files that are written whole or not at all, also by several programs at once."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import diffedit_min as dm
from diffedit_min.pictures.picture_files import check_target
from diffedit_min.pictures.writing import NotWritten, clear_leftovers, identity, lock, part_of, replacing, version_of

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dm.__file__).parents[1])}


def write(path, data, **how):
    with replacing(path, **how) as file:
        file.write(data)


def names(folder):
    return sorted(os.listdir(folder))


def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / ("a" * 250 + ".png")
    write(path, b"old")
    with replacing(path) as file:
        file.write(b"new" * 10**5)
        file.flush()
        assert path.read_bytes() == b"old" and part_of(path).stat().st_size == 3 * 10**5
    assert path.read_bytes() == b"new" * 10**5 and names(tmp_path) == [path.name]


@posix
def test_two_writers_of_one_file_take_turns(tmp_path):
    path, begun, order = tmp_path / "a", threading.Event(), []

    def second():
        begun.set()
        write(path, b"second")
        order.append("second")

    with replacing(path) as file:
        other = threading.Thread(target=second)
        other.start()
        begun.wait()
        other.join(0.2)
        file.write(b"the first, which is longer")
        order.append("first")
    other.join(10)
    assert order == ["first", "second"] and path.read_bytes() == b"second" and names(tmp_path) == ["a"]


def killed_while_writing(path):
    code = ("import os, sys\nfrom diffedit_min.pictures import replacing\n"
            "with replacing(sys.argv[1]) as file:\n    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code, str(path)], env=ENVIRONMENT, timeout=100)
    assert part_of(path).read_bytes() == b"half" and not path.exists()


@posix
def test_what_a_killed_one_left_is_written_over_or_cleared_and_what_is_being_written_is_not(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    killed_while_writing(path)
    with replacing(other) as file:
        file.write(b"whole")
        clear_leftovers([path, other, tmp_path / "none"])
        assert names(tmp_path) == [part_of(other).name]
    killed_while_writing(path)
    write(path, b"x")
    assert names(tmp_path) == ["a", "b"] and (path.read_bytes(), other.read_bytes()) == (b"x", b"whole")


def test_only_the_version_that_may_be_replaced_is(tmp_path):
    path = tmp_path / "a"
    write(path, b"1", over=None)
    for old in (None, (0, 0, 0, 0)):
        with pytest.raises(NotWritten, match="'.*a' was written by another program meanwhile: wait for its end"):
            write(path, b"2", over=old)
    before = version_of(path)
    write(path, b"3", over=before)
    with pytest.raises(NotWritten):
        write(path, b"4", over=before)
    assert path.read_bytes() == b"3" and names(tmp_path) == ["a"]


@posix
def test_a_link_under_the_unfinished_files_name_leads_nowhere(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    part_of(tmp_path / "a").symlink_to(tmp_path / "victim")
    with pytest.raises(NotWritten, match="'.*a' can't be written"):
        write(tmp_path / "a", b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"


@posix
@pytest.mark.parametrize("size", [1000, 10**6])     # above 8 KiB the error comes in the midst of the block
def test_a_full_disk_names_the_path_and_leaves_the_old_file(tmp_path, size):
    code = ("import resource, sys\nfrom diffedit_min.pictures import replacing\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
            f"with replacing(sys.argv[1]) as file:\n    file.write(b'x' * {size})")
    (tmp_path / "a").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=ENVIRONMENT, timeout=100,
                          capture_output=True, text=True)
    assert re.search("NotWritten: '.*/a' can't be written \\(File too large\\): make room there, or", done.stderr)
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@posix
def test_a_lock_is_for_one_at_a_time_and_ends_with_its_file(tmp_path):
    with open(tmp_path / "a", "wb") as first, open(tmp_path / "a", "wb") as second:
        assert lock(first) and not lock(second, wait=False)
        first.close()
        assert lock(second, wait=False)


@posix
def test_paths_that_lead_to_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("a").touch()
    os.link("a", "hard")
    os.symlink("a", "soft")
    os.symlink("none", "to-none")
    same = ["a", "./a", "sub/../a", tmp_path / "a", "hard", "soft"]
    assert {identity(path) for path in same} == {identity("a")}
    assert identity("none") == identity("sub/../none") == identity("to-none") != identity("a")


@posix
def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gone").mkdir()
    os.chdir("gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(ValueError, match="^'a.png' can't be written: the current folder is gone, change to another$"):
        check_target(Path("a.png"))
    assert identity("a.png") == ("a.png",)
    os.chdir(tmp_path)


@posix
def test_places_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("round.png", "round.png")
    os.symlink("sub", "sub")
    os.mkfifo("pipe.png")
    Path("file").touch()
    for path, message in (
        ("round.png", r"'round.png' can't be written \(Too many levels of symbolic links\): choose another path"),
        ("sub/a.png", r"'sub/a.png' can't be written \(Too many levels of symbolic links\): choose another path"),
        ("a" * 300 + ".png", r"'aaa.*\.\.\..*png' can't be written \(File name too long\): choose another path"),
        ("a/" * 3000 + "a.png", r"'a/a.*\.\.\..*png' can't be written \(File name too long\): choose another path"),
        ("pipe.png", "'pipe.png' is not a file but a pipe or a device: choose another path"),
        ("file/a.png", "there is no folder 'file': make it first"),
        ("a\0.png", r"'a\\x00.png' can't be written \(embedded null byte\): choose another path"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$") as error:
            check_target(Path(path))
        assert len(str(error.value)) < 500
