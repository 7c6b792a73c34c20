"""From a path to a connection on a file that is known to be a store of ours."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from pathlib import Path

from durable_core.errors import StoreError, StoreVersionError
from durable_core.stores.sqlite.sql import QUERIES, SCHEMA, store_error, transaction

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "WAL_PAGES_BACKSTOP",
    "connect",
    "create_private",
    "filesystem_type",
    "prepare",
    "refuse_foreign_file",
    "refuse_network_filesystem",
    "refuse_other_version",
]


# --- files ----------------------------------------------------------------------------------------
#
# The file itself: where it may lie, and that only its owner can read it.

_MOUNTINFO = "/proc/self/mountinfo"
#: File systems of one host, as the kernel names them: all others may be shared by hosts, between
#: which locks or shared memory do not work.
_LOCAL = frozenset(
    (
        *(
            "aufs",
            "bcachefs",
            "btrfs",
            "ecryptfs",
            "erofs",
            "exfat",
            "ext2",
            "ext3",
            "ext4",
            "f2fs",
        ),
        *("fuseblk", "fuse.fuse-overlayfs", "hfsplus", "jffs2", "jfs", "msdos", "nilfs2", "ntfs"),
        *("ntfs3", "overlay", "overlayfs", "ramfs", "reiserfs", "rootfs", "tmpfs", "ubifs", "vfat"),
        *("xfs", "zfs"),
    )
)
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
    """Raise a ``StoreError`` if the path is not on a file system that is known to be local."""
    try:
        with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read()
    except OSError:
        return  # Not Linux: nothing is known, nothing is refused.
    kind = filesystem_type(mountinfo, os.path.realpath(path))
    if kind is not None and kind not in _LOCAL:
        raise StoreError(
            f"the store {path} is on a file system ({kind}) that is not known to be local: on a "
            "network SQLite's write-ahead log is not safe; use a local path, or allow it with "
            "unsafe_filesystem=True"
        )


def refuse_foreign_file(path: str) -> None:
    """Raise a ``StoreError`` if somebody else may have made the file, or may write to it.

    Whoever can write to a store can make the application's code run on data of theirs, and knows
    the secret of its tokens. Root may use the files of all users.
    """
    if not hasattr(os, "geteuid"):
        return  # Windows: a file has other rules there.
    status = os.stat(path)
    if status.st_uid != os.geteuid() != 0:
        raise StoreError(
            f"the store {path} belongs to another user (uid {status.st_uid}): that user knows the "
            "secret in it; give the application a file of its own, or allow it with "
            "unsafe_filesystem=True"
        )
    if status.st_mode & stat.S_IWOTH:
        raise StoreError(
            f"every user may write to the store {path}: take the permission away (chmod o-w)"
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


# --- opening --------------------------------------------------------------------------------------

#: "DurE"; tells our files from other SQLite files.
APPLICATION_ID = 0x44757245
#: The schema that this code knows. Each step up needs an entry in ``_MIGRATIONS``.
VERSION = 1
#: A commit moves the log into the database itself only when nothing else has, at this size.
WAL_PAGES_BACKSTOP = 10_000

_PRAGMAS = ("synchronous = FULL", f"wal_autocheckpoint = {WAL_PAGES_BACKSTOP}")
#: Statements that lead from a version to the next one.
_MIGRATIONS: dict[int, str] = {}
#: Every column there is, as ``table.column``.
_COLUMNS = """
    SELECT made.name || '.' || has.name
    FROM sqlite_schema AS made, pragma_table_info(made.name) AS has
    WHERE made.type = 'table'
"""
_OPEN_SECONDS = 10.0
_OLDEST_SQLITE = (3, 37, 0)


def connect(path: str, *pragmas: str, busy_seconds: float) -> sqlite3.Connection:
    """Open one more connection on a store that :func:`prepare` has accepted.

    Args:
        path: the file, absolute.
        pragmas: settings besides those that all connections have, such as ``"query_only = ON"``.
        busy_seconds: how long a statement waits for a lock.
    """
    uri = f"{Path(path).as_uri()}?mode=rw"  # by default SQLite makes a file that is missing
    db = sqlite3.connect(
        uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (*_PRAGMAS, *pragmas):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def prepare(path: str) -> None:
    """Make an empty file a store, bring an older store up to date, accept a current one.

    Raises:
        StoreVersionError: a newer version made it, or it is not ours; it is left as it was.
        StoreError: it cannot be opened, or not with a write-ahead log.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(
            f"SQLite 3.37 or newer is needed; this Python has {sqlite3.sqlite_version}"
        )
    try:
        db = sqlite3.connect(path, timeout=_OPEN_SECONDS, isolation_level=None)
        try:
            if _needs_work_now(db, path):
                _migrate(db, path)
            _refuse_incomplete(db, path)
            _use_wal(db, path)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def _needs_work_now(db: sqlite3.Connection, path: str) -> bool:
    """As :func:`_needs_work`, of one moment: another process may be making the store."""
    db.execute("BEGIN")
    try:
        return _needs_work(db, path)
    finally:
        db.execute("ROLLBACK")


def _needs_work(db: sqlite3.Connection, path: str) -> bool:
    """Tell whether the schema is missing or old; refuse what is not ours to change."""
    [application] = db.execute("PRAGMA application_id").fetchone()
    [version] = db.execute("PRAGMA user_version").fetchone()
    [tables] = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application == 0 and version == 0 and tables == 0:
        return True
    if application != APPLICATION_ID:
        raise StoreVersionError(
            f"{path} is a SQLite database of another application; give the store its own file"
        )
    if version > VERSION:
        raise StoreVersionError(
            f"the store {path} has schema version {version}, made by a newer release; "
            f"this one knows versions up to {VERSION}"
        )
    if version < VERSION and not set(range(version, VERSION)) <= _MIGRATIONS.keys():
        raise StoreVersionError(
            f"the store {path} has schema version {version}, which this release cannot bring up "
            f"to {VERSION}; use the release that made it, or give the application a new file"
        )
    return bool(version < VERSION)


def refuse_other_version(db: sqlite3.Connection, path: str) -> None:
    """Refuse a file that this release does not read as it is; nothing is changed.

    Raises:
        StoreVersionError: it is no store, or an older or a newer release made it.
    """
    if _needs_work(db, path):
        raise StoreVersionError(
            f"{path} is empty, or an older release made it; open a copy of it once with this one"
        )
    _refuse_incomplete(db, path)


def _refuse_incomplete(db: sqlite3.Connection, path: str) -> None:
    """Refuse a file that says it has our schema and has not, before requests fail for that."""
    ours = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _execute_all(ours, SCHEMA)
        missing = sorted(_columns(ours) - _columns(db))
    finally:
        ours.close()
    if missing:
        raise StoreVersionError(
            f"the store {path} says that it has schema version {VERSION}, but lacks "
            f"{', '.join(missing[:3])}: no published release made it so; give the application a "
            "new file"
        )


def _columns(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute(_COLUMNS)}


def _migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the schema up to date, in one transaction."""
    db.execute("PRAGMA synchronous = FULL")
    with transaction(db):
        if _needs_work(db, path):  # Another process may have been first.
            _run_migrations(db)


def _run_migrations(db: sqlite3.Connection) -> None:
    [version] = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        _execute_all(db, SCHEMA)
        db.execute(QUERIES["insert-secret"], (os.urandom(32), 0))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    else:
        for step in range(version, VERSION):
            _execute_all(db, _MIGRATIONS[step])
    db.execute(f"PRAGMA user_version = {VERSION}")


def _execute_all(db: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script in the open transaction (``executescript`` would end it)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


def _use_wal(db: sqlite3.Connection, path: str) -> None:
    """Switch to write-ahead logging, which needs the file for itself for a moment."""
    give_up = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            [mode] = db.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # Two processes that switch at once are told so without waiting.
            busy = (error.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise StoreError(
            f"the store {path} cannot use a write-ahead log here "
            f"(journal_mode is {mode!r}); put it on a local file system"
        )
