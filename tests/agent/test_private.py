from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent.converge.workroom import open_workroom
from closeranks_agent.disk.private import Identity, ensure_private
from closeranks_agent.disk.versions import Versions
from closeranks_agent.disk.volume import Volume
from closeranks_agent.disk.witness import Witness
from closeranks_proto.errors import UserError

MakeVolume = Callable[..., Volume]


@pytest.fixture
def root_fd(tree_dir: Path) -> Iterator[int]:
    fd = os.open(tree_dir, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def ensure(root_fd: int, tree_dir: Path, elsewhere: Path | None = None) -> None:
    ensure_private(
        root_fd, os.fsencode(tree_dir), None if elsewhere is None else os.fsencode(elsewhere), "photos"
    )


def test_it_is_made_for_the_owner_alone_with_stage_and_trash(tree_dir: Path, root_fd: int) -> None:
    ensure(root_fd, tree_dir)
    private = tree_dir / ".closeranks"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert sorted(path.name for path in private.iterdir()) == ["OWNER", "stage", "trash"]
    ensure(root_fd, tree_dir)  # and found again


def test_a_mode_that_was_opened_up_is_closed_again(tree_dir: Path, root_fd: int) -> None:
    ensure(root_fd, tree_dir)
    (tree_dir / ".closeranks").chmod(0o755)
    ensure(root_fd, tree_dir)
    assert stat.S_IMODE((tree_dir / ".closeranks").stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["directory", "file", "symlink", "foreign mark"])
def test_a_tree_that_has_the_name_from_somebody_else_is_refused(
    tree_dir: Path, root_fd: int, tmp_path: Path, content: str
) -> None:
    place = tree_dir / ".closeranks"
    if content == "file":
        place.write_bytes(b"x")
    elif content == "symlink":
        (tmp_path / "target").mkdir()
        place.symlink_to(tmp_path / "target")
    else:
        place.mkdir()
        (place / ("OWNER" if content == "foreign mark" else "photo.jpg")).write_bytes(b"mine")
    with pytest.raises(UserError, match="Move it away"):
        ensure(root_fd, tree_dir)


@pytest.mark.parametrize("left", ["nothing", "an empty mark"])
def test_what_a_crash_left_half_made_is_completed(tree_dir: Path, root_fd: int, left: str) -> None:
    (tree_dir / ".closeranks").mkdir()
    if left == "an empty mark":
        (tree_dir / ".closeranks" / "OWNER").touch()
    ensure(root_fd, tree_dir)
    assert (
        (tree_dir / ".closeranks" / "OWNER")
        .read_text()
        .startswith("closeranks private directory\nvolume photos\n")
    )


def test_elsewhere_it_must_not_lie_inside_the_volume(tree_dir: Path, root_fd: int) -> None:
    with pytest.raises(UserError, match="lies inside volume photos"):
        ensure(root_fd, tree_dir, tree_dir / "private")


def test_elsewhere_it_belongs_to_one_volume(tree_dir: Path, root_fd: int, tmp_path: Path) -> None:
    ensure(root_fd, tree_dir, tmp_path / "private")
    assert (tmp_path / "private" / "trash").is_dir()
    assert not (tree_dir / ".closeranks").exists()
    with pytest.raises(UserError, match="is used by volume photos"):
        ensure_private(root_fd, os.fsencode(tree_dir), os.fsencode(tmp_path / "private"), "music")


def test_elsewhere_a_foreign_directory_in_the_tree_is_refused_all_the_same(
    tree_dir: Path, root_fd: int, tmp_path: Path
) -> None:
    (tree_dir / ".closeranks").mkdir()
    (tree_dir / ".closeranks" / "x").write_bytes(b"x")
    with pytest.raises(UserError, match="Move it away"):
        ensure(root_fd, tree_dir, tmp_path / "private")


@pytest.mark.root
def test_elsewhere_it_must_be_on_the_same_filesystem(tree_dir: Path, root_fd: int, tmp_path: Path) -> None:
    from fleet.tmpfs import Tmpfs

    with Tmpfs(tmp_path / "other", 1 << 20), pytest.raises(UserError, match="same filesystem"):
        ensure(root_fd, tree_dir, tmp_path / "other" / "private")


def test_a_volume_over_a_foreign_private_directory_does_not_open(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    (tree_dir / ".closeranks").mkdir()
    (tree_dir / ".closeranks" / "x").write_bytes(b"x")
    with pytest.raises(UserError, match="Move it away"):
        make_volume()


def identity(**changed: object) -> Identity:
    fields: dict[str, object] = {"device": 1, "inode": 2, "filesystem": 3, "mark": "m"}
    return Identity(**(fields | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (identity(), identity(), True),
        (identity(), identity(inode=9), False),
        (identity(), identity(device=9), True),  # numbered anew after a reboot
        (identity(), identity(mark=None), True),  # somebody removed the private directory
        (identity(), identity(filesystem=9, mark=None), False),  # another filesystem under the same numbers
        (identity(), identity(device=9, filesystem=9), True),  # numbered anew, the mark is there
        (identity(filesystem=0, mark=None), identity(filesystem=0, mark=None, device=9), False),
        (identity(filesystem=0, mark=None), identity(filesystem=0, mark=None), True),
        (identity(mark=None), identity(mark=None, device=9), True),
    ],
)
def test_what_makes_two_roots_the_same(then: Identity, now: Identity, same: bool) -> None:
    assert then.is_of(now) is same


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
@pytest.mark.parametrize("planted", ["directory", "symlink"])
def test_a_private_directory_that_somebody_planted_later_is_not_used(
    tree_dir: Path, tmp_path: Path, make_volume: MakeVolume, planted: str
) -> None:
    """Whoever may write to the volume's root can move ours away and put another one there."""
    volume = make_volume()
    volume.scan()
    ours = (tree_dir / ".closeranks").rename(tmp_path / "moved")
    place = tmp_path / "theirs" if planted == "symlink" else tree_dir / ".closeranks"
    shutil.copytree(ours, place)
    if planted == "symlink":
        (tree_dir / ".closeranks").symlink_to(place)
    else:
        os.chown(place, 65534, 65534)
    copies = Versions(volume.private)
    for use in (
        lambda: open_workroom(volume).close(),
        lambda: Witness(volume.private, "0" * 32).begin(1),
        lambda: os.close(copies._copy(memoryview(b"a version"))),
    ):
        with pytest.raises(OSError):
            use()
