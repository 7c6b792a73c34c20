"""The files in which processes tell each other what they stream."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from durable_core.errors import StoreError
from durable_core.ports import ChannelName
from durable_core.stores.sqlite.side_channel import FileChannel

NAME = ChannelName("run/1", 2, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store.db-live"


@pytest.fixture
def channel(folder: Path) -> FileChannel:
    return FileChannel(str(folder))


def test_what_is_told_is_read_from_any_place(channel: FileChannel) -> None:
    """In parts of whatever size, and under a name that any run id can have."""
    channel.begin(NAME, b"first ")
    assert channel.append(NAME, b"second")
    [file] = channel.listed()

    assert (NAME, 12) == (file.name, file.size)
    assert abs(file.age) < 60
    assert b"first " == channel.read(NAME, 0, 6)
    assert b"second" == channel.read(NAME, 6, 99)
    assert b"" == channel.read(NAME, 12, 99)


def test_files_are_private(channel: FileChannel, folder: Path) -> None:
    """As private as the database. Reading and removing make nothing."""
    channel.remove(NAME)
    assert () == channel.listed()
    assert not folder.exists()
    channel.begin(NAME, b"")
    [path] = folder.iterdir()

    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_what_was_removed_is_gone(channel: FileChannel) -> None:
    """For those who read it, and for the one who would add to it; removing twice is no error."""
    channel.begin(NAME, b"first")
    channel.remove(NAME)
    channel.remove(NAME)

    assert [] == channel.listed()
    assert None is channel.read(NAME, 0, 99)
    assert not channel.append(NAME, b"second")
    assert [] == channel.listed()


def test_a_name_is_begun_once(channel: FileChannel) -> None:
    """A reader of the first must not take what follows for its own."""
    channel.begin(NAME, b"first")
    with pytest.raises(StoreError, match="cannot be used"):
        channel.begin(NAME, b"second")
    assert b"first" == channel.read(NAME, 0, 99)


def test_only_plain_files_tell_anything(channel: FileChannel, folder: Path, tmp_path: Path) -> None:
    """No link is followed, no pipe waited for; other names are not looked at."""
    channel.begin(NAME, b"first")
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", folder / "link.1.1")
    os.mkfifo(folder / "pipe.1.1")
    (folder / "folder.1.1").mkdir()
    (folder / "else").touch()

    assert [NAME] == [file.name for file in channel.listed()]
    with pytest.raises(StoreError):
        channel.read(ChannelName("link", 1, 1), 0, 99)
    assert None is channel.read(ChannelName("pipe", 1, 1), 0, 99)
    assert None is channel.read(ChannelName("folder", 1, 1), 0, 99)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    """It says which; so do reading and listing."""
    (tmp_path / "file").touch()
    channel = FileChannel(str(tmp_path / "file"))

    with pytest.raises(StoreError, match="file"):
        channel.begin(NAME, b"first")
    with pytest.raises(StoreError, match="file"):
        channel.listed()
