"""What the coordinator keeps is for its owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from closeranks_coordinator.storage.seclusion import close_to_others
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.storage.store import Batch


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}


async def test_a_new_store_is_for_its_owner_alone_from_the_first_moment(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "xxh3-128")
    await store.write(Batch(meta={"x": b"y"}))
    found = modes(tmp_path / "s")
    await store.close()
    assert {"coordinator.sqlite", "coordinator.sqlite-wal", "lock"} <= found.keys()
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700


async def test_what_an_earlier_version_left_open_is_closed_at_start(tmp_path: Path) -> None:
    await open_store(tmp_path, "xxh3-128").close()
    tmp_path.chmod(0o755)
    (tmp_path / "coordinator.sqlite").chmod(0o644)
    (tmp_path / "notes.txt").write_text("of somebody else")
    (tmp_path / "notes.txt").chmod(0o644)
    await open_store(tmp_path, "xxh3-128").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert modes(tmp_path)["coordinator.sqlite"] == 0o600
    assert modes(tmp_path)["notes.txt"] == 0o644


@pytest.mark.parametrize(
    ("given", "wanted"), [(0o750, 0o750), (0o770, 0o750), (0o2750, 0o2750), (0o751, 0o700)]
)
async def test_a_directory_that_was_opened_to_a_group_stays_readable_for_it(
    tmp_path: Path, given: int, wanted: int
) -> None:
    tmp_path.chmod(given)
    await open_store(tmp_path, "xxh3-128").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == wanted


async def test_a_directory_of_somebody_else_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)

    def refuse(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    await open_store(tmp_path, "xxh3-128").close()
    assert f"{tmp_path} is open to others (mode 0755) and can not be closed" in caplog.text


async def test_a_place_that_others_have_theirs_in_stays_open_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where somebody has named /srv: a web server could not read its pages any more."""
    (tmp_path / "pages").mkdir()
    tmp_path.chmod(0o755)
    await open_store(tmp_path, "xxh3-128").close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert modes(tmp_path)["coordinator.sqlite"] == 0o600
    assert "Name a directory of its own as state_dir" in caplog.text


@pytest.mark.parametrize("planted", ["file", "directory"])
def test_what_was_looked_at_is_what_is_closed_whatever_its_name_leads_to_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """Others may write in a directory that is open to them: a link in the right moment led to any file."""
    state, foreign, real = tmp_path / "s", tmp_path / "foreign", os.chmod
    state.mkdir(mode=0o777)
    (state / "old.sqlite").touch(0o644)
    foreign.mkdir(mode=0o755) if planted == "directory" else foreign.touch(0o644)
    before = foreign.stat().st_mode
    victim = state if planted == "directory" else state / "old.sqlite"
    mode = stat.S_IMODE(victim.stat().st_mode)

    def late(path: str, wanted: int) -> None:
        if stat.S_IMODE(os.stat(path).st_mode) == mode and not (tmp_path / "moved").exists():
            victim.rename(tmp_path / "moved")
            victim.symlink_to(foreign)
        real(path, wanted)

    monkeypatch.setattr(os, "chmod", late)
    close_to_others(state)
    assert foreign.stat().st_mode == before
    assert not (tmp_path / "moved").stat().st_mode & 0o077
