"""A converge or push that is killed anywhere is finished by the next one, and nothing is lost on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLED_MIN = 26


@pytest.mark.repeats(KILLED_MIN)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "stride"), [("converge", "5"), ("late", "5"), ("push", "2")])
def test_killed_at_any_change_the_next_run_reaches_the_target_and_nothing_is_lost(
    tmp_path: Path, kind: str, stride: str
) -> None:
    sweep = [sys.executable, str(Path(__file__).with_name("kill_sweep.py")), str(tmp_path), stride, kind]
    ended = subprocess.run(sweep, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["violations"] == []
    assert found["killed"] >= KILLED_MIN
