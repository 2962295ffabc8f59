"""The harness itself: what judges the others has to be right first."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import (
    CountingProxy,
    Daemon,
    Rogue,
    Waited,
    compare_trees,
    copy_tree,
    manifest,
    photo_tree,
    small_tree,
    wait_until,
)
from fleet.local import FAULTS
from fleet.trees import NoRoom, TreeSize, check_room


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    small_tree(tmp_path / "a")
    copy_tree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def differences(pair: tuple[Path, Path]) -> list[str]:
    return [str(d) for d in compare_trees(str(pair[0]), {"b": str(pair[1])})["b"]]


def test_a_copy_is_equal(pair: tuple[Path, Path]) -> None:
    assert differences(pair) == []
    assert len(manifest(pair[0])) > 50


def test_every_kind_of_difference_is_found(pair: tuple[Path, Path]) -> None:
    b = pair[1]
    before = (b / "large.bin").stat()
    with (b / "large.bin").open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"!")
    os.utime(b / "large.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    (b / "executable.sh").chmod(0o754)
    (b / "empty file").unlink()
    (b / "more").write_bytes(b"")
    (b / "link to a file").unlink()
    (b / "link to a file").symlink_to("large.bi")
    (b / "empty directory").rmdir()
    (b / "empty directory").write_bytes(b"")
    assert sorted(differences(pair)) == [
        "added 'more'",
        "content 'large.bin'",
        "kind 'empty directory'",
        "missing 'empty file'",
        "mode 'executable.sh'",
        "target 'link to a file'",
    ]


def test_the_private_directory_is_left_out_at_the_root_only(pair: tuple[Path, Path]) -> None:
    b = pair[1]
    (b / ".closeranks" / "trash").mkdir(parents=True)
    assert differences(pair) == []
    (b / "dir-1" / ".closeranks").mkdir()
    assert differences(pair) == ["added 'dir-1/.closeranks'"]


def test_the_photo_tree_is_the_same_for_a_seed(tmp_path: Path) -> None:
    photo_tree(tmp_path / "a", files=80, videos=1)
    photo_tree(tmp_path / "b", files=80, videos=1)
    assert compare_trees(str(tmp_path / "a"), {"b": str(tmp_path / "b")}) == {"b": []}


def test_the_rogue_does_what_its_log_says(tmp_path: Path) -> None:
    photo_tree(tmp_path / "a", files=160, videos=2)
    copy_tree(tmp_path / "a", tmp_path / "b")
    rogue = Rogue(tmp_path / "b", tmp_path / "log", rewrite=True, every_s=0.05, alter=5, add=3, delete=2)
    wait_until("three turns", lambda: sum(d["deed"] == "rewrite" for d in rogue.deeds()), lambda n: n >= 3)
    assert rogue.stop() == 0
    found = compare_trees(str(tmp_path / "a"), {"b": str(tmp_path / "b")})["b"]
    assert sorted(os.fsdecode(d.path) for d in found) == rogue.paths()
    assert sorted(d.change for d in found) == ["added"] * 4 + ["content"] * 5 + ["missing"] * 2
    assert 0 < rogue.damaged_bytes(tmp_path / "a") < 6 << 20


def test_room_is_checked_before_copies_are_made(tmp_path: Path) -> None:
    check_room(TreeSize(10, 10, 1000, 4096), 16, tmp_path)
    with pytest.raises(NoRoom, match="are free"):
        check_room(TreeSize(10, 10, 1 << 50, 1 << 50), 16, tmp_path)


def test_waiting_says_what_was_seen_last() -> None:
    with pytest.raises(Waited, match="the moon") as error:
        wait_until("the moon", lambda: "clouds", lambda seen: seen == "moon", timeout_s=0.05, every_s=0.01)
    assert "clouds" in str(error.value)


def test_daemons_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from fleet import Daemon\n"
        "d = Daemon('sleeper', ['/bin/sleep', '60'], Path(sys.argv[2])); d.start(); print(d.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = str(Path(__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", script, tests, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(ran.stdout)

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until("the sleeper is gone", gone, timeout_s=5)


def test_a_daemon_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    daemon = Daemon("brief", [shutil.which("sh") or "/bin/sh", "-c", "echo why; exit 3"], tmp_path / "log")
    daemon.start()
    assert daemon.process is not None
    daemon.process.wait()
    with pytest.raises(AssertionError, match="exit code 3") as error:
        daemon.check_alive()
    assert "why" in str(error.value)


def test_faults_in_logs_are_recognised() -> None:
    assert FAULTS.search("x\nTraceback (most recent call last):\n")
    assert FAULTS.search("Task exception was never retrieved")
    assert not FAULTS.search("stopping\nstopped\n")


def test_the_proxy_counts_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = CountingProxy(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", proxy.port)) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"12345")
                assert far.recv(10) == b"12345"
                far.sendall(b"123")
                assert near.recv(10) == b"123"
                assert (proxy.up, proxy.down, proxy.connections) == (5, 3, 1)
        proxy.close()
