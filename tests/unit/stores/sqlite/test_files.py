"""Where a store's file may lie, and that only its owner can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from durable_core.errors import ConfigurationError, StoreError
from durable_core.stores.sqlite import SQLiteStore
from durable_core.stores.sqlite import opening as files
from durable_core.stores.sqlite.opening import (
    create_private,
    filesystem_type,
    refuse_foreign_file,
    refuse_network_filesystem,
)

MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /proc rw,nosuid - proc proc rw
31 22 0:26 / /srv rw shared:4 - nfs4 host:/export rw,vers=4.2
32 31 254:1 / /srv/local rw shared:5 master:1 - xfs /dev/vdb rw
33 22 0:27 / /mnt/with\040space rw - cifs //host/share rw
34 22 0:28 / /over rw - ext4 /dev/vdc rw
35 34 0:29 / /over rw - 9p share rw
broken line
36 22 - short
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/store.db", "ext4"),
        ("/srv/store.db", "nfs4"),
        ("/srv/local/deep/store.db", "xfs"),
        ("/srv/localities/store.db", "nfs4"),
        ("/mnt/with space/store.db", "cifs"),
        ("/over/store.db", "9p"),
        ("/srv", "nfs4"),
    ],
)
def test_the_longest_mount_point_above_a_path_counts(path: str, expected: str) -> None:
    """Mount points are whole names, may hold escapes, and the later of two hides the earlier."""
    assert expected == filesystem_type(MOUNTS, path)


def test_without_mounts_nothing_is_known() -> None:
    """An empty table names no file system."""
    assert filesystem_type("", "/home/store.db") is None


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse.sshfs", "fuse.gcsfuse", "new"],
)
def test_what_is_not_known_to_be_local_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the kind and what to do; links are followed to where the file is."""
    mounts = tmp_path / "mountinfo"
    target = tmp_path / "remote"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    mounts.write_text(f"1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / {target} rw - {kind} d rw\n")
    monkeypatch.setattr(files, "_MOUNTINFO", str(mounts))

    with pytest.raises(StoreError, match=rf"\({kind}\).*unsafe_filesystem"):
        refuse_network_filesystem(str(tmp_path / "link" / "store.db"))

    refuse_network_filesystem(str(tmp_path / "store.db"))


def test_without_a_mount_table_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems than Linux have none."""
    monkeypatch.setattr(files, "_MOUNTINFO", str(tmp_path / "absent"))

    refuse_network_filesystem(str(tmp_path / "store.db"))


def test_new_files_and_directories_are_private(tmp_path: Path) -> None:
    """Also under a mask that would let everybody read them."""
    before = os.umask(0)
    try:
        create_private(str(tmp_path / "new" / "store.db"))
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").glob("*")]
    assert [0o600] == modes
    assert 0o700 == stat.S_IMODE((tmp_path / "new").stat().st_mode)


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    """Neither its mode nor its contents change."""
    path = tmp_path / "store.db"
    path.write_bytes(b"content")
    path.chmod(0o640)

    create_private(str(path))

    assert b"content" == path.read_bytes()
    assert 0o640 == stat.S_IMODE(path.stat().st_mode)


def test_the_file_that_a_link_leads_to_is_private(tmp_path: Path) -> None:
    """SQLite would make it, for everybody to read."""
    (tmp_path / "link.db").symlink_to(tmp_path / "new" / "store.db")

    create_private(str(tmp_path / "link.db"))

    assert 0o600 == stat.S_IMODE((tmp_path / "new" / "store.db").stat().st_mode)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it knows its secret; root, and who says so, may use it."""
    path = tmp_path / "store.db"
    create_private(str(path))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(StoreError, match="belongs to another user"):
        SQLiteStore(path).open()

    allowed = SQLiteStore(path, unsafe_filesystem=True)
    allowed.open()
    allowed.close()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuse_foreign_file(str(path))


def test_a_file_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    """Also through a link; its own group may write to it."""
    path, link = tmp_path / "store.db", tmp_path / "link.db"
    create_private(str(path))
    link.symlink_to(path)
    path.chmod(0o660)
    refuse_foreign_file(str(link))
    path.chmod(0o662)

    with pytest.raises(StoreError, match="every user may write"):
        SQLiteStore(link).open()


@pytest.mark.parametrize("path", [":memory:", "file::memory:", "sqlite:///shop.db", ""])
def test_what_sqlite_would_not_take_for_a_file(path: str) -> None:
    """A name that means something else to SQLite, or to its users, is refused."""
    with pytest.raises(ConfigurationError, match="store="):
        SQLiteStore(path)
