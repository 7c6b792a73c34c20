"""The file itself: where it may lie, and that only its owner can read it."""

from __future__ import annotations

import os
import re

from durable_core.errors import StoreError

__all__ = ["create_private", "filesystem_type", "refuse_network_filesystem"]

_MOUNTINFO = "/proc/self/mountinfo"
#: File systems whose locks or shared memory do not work between hosts, as the kernel names them.
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p"})
_OCTAL = re.compile(r"\\([0-7]{3})")


def create_private(path: str) -> None:
    """Make sure that the file exists: a new one has mode 0600, a new directory 0700.

    An existing file is not opened: closing it again would drop the locks that SQLite holds on it
    in this process. A symbolic link may lead to a file that is still to be made.
    """
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return


def refuse_network_filesystem(path: str) -> None:
    """Raise a ``StoreError`` if the path is known to be on a network file system."""
    try:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read()
    except OSError:
        return  # Not Linux: nothing is known, nothing is refused.
    kind = filesystem_type(mountinfo, os.path.realpath(path))
    if kind in _NETWORK:
        raise StoreError(
            f"the store {path} is on a network file system ({kind}), where SQLite's write-ahead "
            "log is not safe; use a local path, or allow it with unsafe_filesystem=True"
        )


def filesystem_type(mountinfo: str, path: str) -> str | None:
    """Return the type of the file system that holds an absolute path, None if no mount does.

    Args:
        mountinfo: the text of ``/proc/self/mountinfo`` (see proc(5)).
        path: absolute, without symbolic links; it need not exist.
    """
    longest, kind = -1, None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        # Of two mounts on one point the later one hides the earlier.
        if len(point) >= longest and _is_below(path, point):
            longest, kind = len(point), after.split(" ")[0]
    return kind


def _is_below(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(point + "/")
