"""A volume over a temporary tree, and the root that the tree must have by an independent reading of it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.watch import hush
from closeranks_proto.content import ChunkList, content_digest, encode_chunk_list
from closeranks_proto.digests import ALGORITHMS, DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import MissingObject
from closeranks_proto.messages import VolumeSettings
from closeranks_proto.paths import key_of
from closeranks_proto.tree import Tree

CHUNK = 4096


def volume_settings(**changed: Any) -> VolumeSettings:
    fields: dict[str, Any] = {
        "name": "photos", "chunk_bytes": CHUNK, "ignore": (), "track": ("mode",), "scan_interval_s": 60.0,
        "special_bits": False, "trash_max_bytes": None, "trash_keep_s": 604800.0,
    }  # fmt: skip
    return VolumeSettings(**(fields | changed))


@pytest.fixture(autouse=True, scope="session")
def usual_umask() -> Iterator[None]:
    """Many tests name the modes that their files get: 0644 and 0755, whatever the machine's own rule is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def others_write_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher under test falls into no hush because of what others write to the machine's filesystem."""
    monkeypatch.setattr(hush, "BURST_S", inf)


@pytest.fixture
def settings_of() -> Callable[..., VolumeSettings]:
    """VolumeSettings with small chunks and the given fields changed."""
    return volume_settings


@pytest.fixture
def tree_dir(tmp_path: Path) -> Path:
    """An empty directory that becomes a volume's root."""
    path = tmp_path / "tree"
    path.mkdir()
    return path


@pytest.fixture
def make_volume(tmp_path: Path, tree_dir: Path) -> Iterator[Callable[..., Volume]]:
    """Opens volumes over `tree_dir` with state in `tmp_path / "state"`; closes them at the end."""
    opened: list[Volume] = []

    def make(
        *, path: Path | bytes | None = None, state: Path | None = None, digest: str = "xxh3-128",
        private_dir: str | None = None, **changed: Any,
    ) -> Volume:  # fmt: skip
        state_dir = state or tmp_path / "state"
        state_dir.mkdir(exist_ok=True)
        root = os.fsencode(path or tree_dir)
        volume = Volume(
            "photos", root, state_dir, volume_settings(**changed), ALGORITHMS[digest], private_dir
        )
        opened.append(volume)
        return volume

    yield make
    for volume in opened:
        volume.close()


def read_tree(
    root: bytes, chunk_bytes: int, algorithm: DigestAlgorithm, track: Sequence[str]
) -> dict[bytes, bytes]:
    """Every (key, value) by os.walk and nothing of the agent's."""
    found: dict[bytes, bytes] = {}
    for directory, names, files in os.walk(root):
        if directory == root:
            names[:] = [name for name in names if name != b".closeranks"]
        for name in names + files:
            path = os.path.join(directory, name)
            value = _value_of(path, chunk_bytes, algorithm, track)
            if value is not None:
                found[key_of(os.path.relpath(path, root))] = value
    return found


def _value_of(
    path: bytes, chunk_bytes: int, algorithm: DigestAlgorithm, track: Sequence[str]
) -> bytes | None:
    status = os.lstat(path)
    owner = (status.st_uid, status.st_gid) if "owner" in track else None
    mode = stat.S_IMODE(status.st_mode) if "mode" in track else None
    mtime = status.st_mtime_ns if "mtime" in track else None
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(path)
        return encode_entry(Entry(Kind.SYMLINK, len(target), target=target, owner=owner, mtime_ns=mtime))
    if stat.S_ISDIR(status.st_mode):
        return encode_entry(Entry(Kind.DIRECTORY, mode=mode, owner=owner))
    if not stat.S_ISREG(status.st_mode):
        return None
    with open(path, "rb") as file:
        data = file.read()
    digests = [algorithm.of(data[at : at + chunk_bytes]) for at in range(0, max(1, len(data)), chunk_bytes)]
    digest = content_digest(algorithm, len(data), chunk_bytes, b"".join(digests))
    return encode_entry(Entry(Kind.FILE, len(data), digest, mode, owner=owner, mtime_ns=mtime))


@pytest.fixture
def expected_root() -> Callable[[Volume], bytes]:
    """The root of what lies on disk, read and built from nothing."""

    def compute(volume: Volume) -> bytes:
        items = read_tree(volume.path, volume.chunk_bytes, volume.algorithm, volume.settings.track)
        return Tree(volume.algorithm, _no_pages).build(sorted(items.items())).root

    return compute


def _no_pages(digest: bytes) -> bytes:
    raise MissingObject(digest)


@pytest.fixture
def chunk_list_of() -> Callable[[Volume, bytes], bytes]:
    """The encoded chunk list of some content."""

    def compute(volume: Volume, data: bytes) -> bytes:
        step, algorithm = volume.chunk_bytes, volume.algorithm
        digests = b"".join(algorithm.of(data[at : at + step]) for at in range(0, len(data), step))
        return encode_chunk_list(ChunkList(len(data), step, algorithm.width, digests))

    return compute


@pytest.fixture
def scanned(make_volume: Callable[..., Volume]) -> Callable[..., Volume]:
    """A volume that has settled."""

    def make(**changed: Any) -> Volume:
        volume = make_volume(**changed)
        time.sleep(0.03)
        for _ in range(2):
            assert volume.scan().complete
        return volume

    return make
