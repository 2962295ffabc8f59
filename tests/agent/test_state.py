from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from closeranks_agent.disk.database import Database
from closeranks_agent.disk.records import StateUnavailable
from closeranks_agent.disk.root import index_path
from closeranks_agent.disk.seclusion import close_to_others
from closeranks_agent.state import AgentState, StateLocked, opened_state
from closeranks_proto.errors import UserError
from closeranks_proto.messages import FenceState, Member, Membership, Problem, VolumeSettings

FENCE = FenceState(7, "two paths differ", "inc-1", 1_700_000_000_000)


def test_the_agent_id_is_made_once(tmp_path: Path) -> None:
    with opened_state(tmp_path / "s") as state:
        first = state.agent_id
    with opened_state(tmp_path / "s") as state:
        assert state.agent_id == first
    with opened_state(tmp_path / "other") as state:
        assert state.agent_id != first


def test_what_it_keeps_is_for_its_owner_alone(tmp_path: Path) -> None:
    """A umask of 022 left names of files, hands and the fence readable for everybody on the machine."""
    place = tmp_path / "s"
    before = os.umask(0)
    try:
        with (
            opened_state(place),
            contextlib.closing(Database(index_path(place, "v"), "CREATE TABLE a (b)", 1)),
        ):
            found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in place.iterdir()}
    finally:
        os.umask(before)
    assert {
        "agent.sqlite",
        "agent.sqlite-wal",
        "volume-v.sqlite",
        "volume-v.sqlite-wal",
        "lock",
    } <= found.keys()
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    with (
        opened_state(tmp_path),
        contextlib.closing(Database(index_path(tmp_path, "v"), "CREATE TABLE a (b)", 1)),
    ):
        pass
    tmp_path.chmod(0o755)
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    with opened_state(tmp_path):
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_directory_that_its_owner_opened_to_a_group_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with opened_state(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_fence_survives_until_it_is_lifted(tmp_path: Path) -> None:
    with opened_state(tmp_path) as state:
        state.set_fence(FENCE)
    with opened_state(tmp_path) as state:
        assert state.fence == FENCE
        assert state.highest_token == 7
        state.set_fence(None)
    with opened_state(tmp_path) as state:
        assert state.fence is None
        assert state.highest_token == 7


def test_the_highest_token_only_grows(tmp_path: Path) -> None:
    with opened_state(tmp_path) as state:
        state.saw_token(9)
        state.saw_token(4)
        state.set_fence(FENCE)
    with opened_state(tmp_path) as state:
        assert state.highest_token == 9


def test_membership_of_an_older_term_is_refused(tmp_path: Path) -> None:
    member = Member("node-01", "h:1", False, True)
    with opened_state(tmp_path) as state:
        assert state.membership_term == 0
        assert state.set_membership(Membership(3, (member,), ("inc-1",)))
        assert not state.set_membership(Membership(2, (), ()))
    with opened_state(tmp_path) as state:
        assert state.membership_term == 3
        assert state.members == {"node-01": member}
        assert state.open_incidents == ("inc-1",)


def test_settings_are_kept_for_the_next_start(tmp_path: Path) -> None:
    volume = VolumeSettings("v", 4096, ("*.tmp",), ("mode",), 1.0, False, None, 1.0)
    with opened_state(tmp_path) as state:
        assert state.settings is None
        state.set_settings("blake3", (volume,))
    with opened_state(tmp_path) as state:
        assert state.settings is not None
        assert (state.settings.digest, state.settings.volumes) == ("blake3", (volume,))


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    code = f"from closeranks_agent.state import AgentState\nAgentState({str(tmp_path)!r})"
    with opened_state(tmp_path):
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StateLocked" in answer.stderr
    assert f"process {os.getpid()}" in answer.stderr


def test_the_same_process_can_not_open_it_twice_either(tmp_path: Path) -> None:
    with opened_state(tmp_path), pytest.raises(StateLocked):
        AgentState(tmp_path)


def test_a_damaged_state_is_not_replaced_silently(tmp_path: Path) -> None:
    (tmp_path / "agent.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match="fence"):
        AgentState(tmp_path)
    # and the lock is free again
    (tmp_path / "agent.sqlite").unlink()
    with opened_state(tmp_path):
        pass


def test_a_fence_outlives_kill_minus_9(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from closeranks_agent.state import AgentState\n"
        "from closeranks_proto.messages import FenceState\n"
        f"state = AgentState({str(tmp_path)!r})\n"
        "state.set_fence(FenceState(7, 'two paths differ', 'inc-1', 1_700_000_000_000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with opened_state(tmp_path) as state:
        assert state.fence == FENCE


@pytest.mark.root
def test_a_fence_can_be_put_up_on_a_full_disk(tmp_path: Path) -> None:
    from fleet.tmpfs import Tmpfs

    with Tmpfs(tmp_path / "state", 2 << 20) as disk:
        with opened_state(disk.path) as state:
            disk.fill(0)
            state.set_fence(FENCE)
            state.saw_token(11)
        with opened_state(disk.path) as state:
            assert (state.fence, state.highest_token) == (FENCE, 11)


def test_a_fence_that_could_not_be_recorded_is_in_force_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise StateUnavailable(Problem("no_space", "full"))

    with opened_state(tmp_path) as state:
        with monkeypatch.context() as patch:
            patch.setattr(state, "_put", fail)
            with pytest.raises(StateUnavailable):
                state.set_fence(FENCE)
        assert (state.fence, state.highest_token) == (FENCE, 7)


def test_membership_and_settings_that_could_not_be_recorded_count_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise StateUnavailable(Problem("no_space", "full"))

    with opened_state(tmp_path) as state:
        monkeypatch.setattr(state, "_put", fail)
        assert state.set_membership(Membership(3, (), ("inc-1",)))
        state.set_settings("blake3", ())
        assert (state.membership_term, state.open_incidents) == (3, ("inc-1",))
        assert state.settings is not None


def test_a_place_that_others_have_theirs_in_stays_open_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A volume may lie beneath the state's directory: whoever serves it could not read it any more."""
    (tmp_path / "photos").mkdir()
    tmp_path.chmod(0o755)
    with opened_state(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "agent.sqlite").stat().st_mode) == 0o600
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
