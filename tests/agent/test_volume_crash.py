"""Killed anywhere, a volume's index, root and journal agree, and no number is used twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_proto.messages import Announce, Commit

CHILD = textwrap.dedent(
    """
    import os, sys
    from closeranks_agent.disk import recorder
    from closeranks_agent.disk.volume import Volume
    from closeranks_proto.digests import XXH3_128
    from closeranks_proto.messages import VolumeSettings
    recorder.COMMIT_MAX_EDITS = 8
    recorder.ROWS_MAX = 8
    settings = VolumeSettings("photos", 4096, (), ("mode",), 60.0, False, None, 1.0)
    volume = Volume("photos", os.fsencode(sys.argv[1]), sys.argv[2], settings, XXH3_128)
    print("ready", flush=True)
    count = 0
    while True:
        for number in range(40):
            with open(f"{sys.argv[1]}/{(count * 7 + number) % 97}", "w") as file:
                file.write(f"{os.getpid()} {count} {number}" * (1 + number * 20))
        assert volume.scan().complete
        for step in volume.pending(0, 1000):
            print(step.seq, step.root.hex(), flush=True)
        if count % 3 == 2:
            volume.acknowledge(volume.last_seq)
            print("acked", volume.last_seq, flush=True)
        count += 1
    """
)


@pytest.mark.timeout(180)
def test_kill_minus_9_leaves_index_root_and_journal_consistent(
    tree_dir: Path,
    tmp_path: Path,
    make_volume: Callable[..., Volume],
    expected_root: Callable[[Volume], bytes],
) -> None:
    rng = random.Random(20)
    (tmp_path / "state").mkdir()
    (tmp_path / "child.py").write_text(CHILD)
    told: dict[int, str] = {}
    acked = 0
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, str(tmp_path / "child.py"), str(tree_dir), str(tmp_path / "state")],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.35))
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            first, second = line.split()
            if first == "acked":
                acked = max(acked, int(second))
            else:
                assert told.setdefault(int(first), second) == second, "a number was used for two roots"
        child.wait()
        child.stdout.close()
        volume = make_volume()
        assert volume.last_seq >= max(told, default=0)
        assert_consistent(volume)
        volume.close()
    volume = make_volume()
    assert volume.scan().complete
    assert volume.root == expected_root(volume)
    volume.close()


def assert_consistent(volume: Volume) -> None:
    """Rows give the root, the journal leads to it, and has no holes."""
    if volume.root is None:
        return
    assert volume.tree.build(volume.history.index.items()).root == volume.root
    root, seq = volume.base_root, volume.first_seq
    for step in volume.pending(0, 10_000):
        assert step.seq == seq
        seq += 1
        if isinstance(step, Announce):
            root = step.root
            continue
        assert isinstance(step, Commit)
        assert step.base_root == root
        root = step.root
    assert root == volume.root
    assert seq == volume.last_seq + 1


def test_a_first_scan_that_was_killed_does_not_hash_again_what_it_had_stowed(
    tree_dir: Path,
    tmp_path: Path,
    make_volume: Callable[..., Volume],
    expected_root: Callable[[Volume], bytes],
) -> None:
    for number in range(400):
        (tree_dir / f"{number:03}").write_bytes(b"%d" % number)
    time.sleep(0.03)
    (tmp_path / "state").mkdir()
    code = textwrap.dedent(
        f"""
        import os, signal
        from closeranks_agent.disk import recorder
        from closeranks_agent.disk.hashing import EntryReader
        from closeranks_agent.disk.volume import Volume
        from closeranks_proto.digests import XXH3_128
        from closeranks_proto.messages import VolumeSettings
        recorder.ROWS_MAX = 50
        real, count = EntryReader.read_file, [0]
        def read_file(self, key, fd, stopped=None):
            count[0] += 1
            if count[0] == 250:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, key, fd, stopped)
        EntryReader.read_file = read_file
        settings = VolumeSettings("photos", 4096, (), ("mode",), 60.0, False, None, 1.0)
        Volume("photos", {os.fsencode(tree_dir)!r}, {str(tmp_path / "state")!r}, settings, XXH3_128).scan()
        """
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    volume = make_volume()
    assert volume.root is None
    report = volume.scan()
    assert 150 <= report.hashed_files <= 200
    assert volume.root == expected_root(volume)
    assert volume.last_seq == 1
