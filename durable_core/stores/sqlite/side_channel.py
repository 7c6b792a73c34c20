"""The channel of a store: one file per run, claim and part in a folder beside the database.

A file is only added to; to begin anew is to make another one. Nothing is synced to the disk: a
file matters only while the process lives that writes it. Descriptors are not kept, so there is
nothing to be inherited by a fork.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, unquote

from durable_core.errors import StoreError
from durable_core.ports import ChannelFile, ChannelName

__all__ = ["FileChannel"]

_NAME = re.compile(r"(.+)\.([0-9]{1,9})\.([0-9]{1,9})")
#: Neither follow a link, nor wait for the other end of a pipe, wherever the system knows these.
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FileChannel:
    """See ``ports.Channel``.

    Args:
        directory: where the files are; made with mode 0700 when it is needed.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def begin(self, name: ChannelName, data: bytes) -> None:
        """Make the file, with mode 0600."""
        with _faults(path := self._path(name)):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
                _write(fd, data)

    def append(self, name: ChannelName, data: bytes) -> bool:
        """Add to the file; False if it is not there."""
        with _faults(path := self._path(name)):
            try:
                with _opened(path, os.O_WRONLY | os.O_APPEND) as fd:
                    _write(fd, data)
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: ChannelName) -> None:
        """Remove the file, if it is there."""
        with _faults(path := self._path(name)), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def listed(self) -> Sequence[ChannelFile]:
        """Return all plain files of this user: others have nothing to tell."""
        now = time.time()
        with _faults(self._directory):
            try:
                with os.scandir(self._directory) as entries:
                    found = [_described(entry, now) for entry in entries]
            except FileNotFoundError:
                return ()
        return [file for file in found if file is not None]

    def read(self, name: ChannelName, offset: int, most: int) -> bytes | None:
        """Return bytes of a file; None if it is not there, or no plain file of this user."""
        with _faults(path := self._path(name)):
            try:
                with _opened(path, os.O_RDONLY) as fd:
                    if not _is_ours(os.fstat(fd)):
                        return None
                    os.lseek(fd, offset, os.SEEK_SET)
                    return os.read(fd, most)
            except FileNotFoundError:
                return None

    def _path(self, name: ChannelName) -> str:
        run_id = quote(name.run_id, safe="")
        return os.path.join(self._directory, f"{run_id}.{name.epoch}.{name.part}")


@contextmanager
def _faults(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the channel {path} cannot be used: {error.strerror}") from error


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | _SAFE, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _is_ours(status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _described(entry: os.DirEntry[str], now: float) -> ChannelFile | None:
    found = _NAME.fullmatch(entry.name)
    if found is None:
        return None
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # removed just now
    if not _is_ours(status):
        return None
    name = ChannelName(unquote(found[1]), int(found[2]), int(found[3]))
    return ChannelFile(name, status.st_size, now - status.st_mtime)
