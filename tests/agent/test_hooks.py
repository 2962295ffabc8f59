"""Hooks are events, never stops."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from closeranks_agent.hooks import run_hook


async def test_no_hook_is_no_event() -> None:
    outcome = await run_hook((), {}, 1.0)
    assert outcome.ok
    assert outcome.text == ""


async def test_a_hook_sees_what_the_fence_is_about() -> None:
    program = "import os, sys; sys.exit(os.environ['CLOSERANKS_NODE'] != 'node-07')"
    outcome = await run_hook((sys.executable, "-c", program), {"CLOSERANKS_NODE": "node-07"}, 10.0)
    assert outcome.ok, outcome.text


async def test_a_failing_hook_says_its_status_and_its_words() -> None:
    program = "print('no such unit'); raise SystemExit(5)"
    outcome = await run_hook((sys.executable, "-c", program), {}, 10.0)
    assert not outcome.ok
    assert "status 5" in outcome.text
    assert "no such unit" in outcome.text


async def test_a_missing_program_is_told_in_words() -> None:
    outcome = await run_hook(("/nonexistent/hook",), {}, 1.0)
    assert not outcome.ok
    assert "/nonexistent/hook" in outcome.text
    assert "No such file" in outcome.text


async def test_what_a_hook_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """It has the hook's output open, and was said to hang and killed."""
    marker = tmp_path / "child"
    program = f"echo told; sleep 100 & echo $! > {marker}; exit 3"
    outcome = await run_hook(("sh", "-c", program), {}, 60.0)
    child = int(marker.read_text())
    try:
        assert outcome.text == "hook sh ended with status 3: told"
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "while True: print('x' * 1000)"])
async def test_a_hook_that_does_not_end_is_killed(program: str) -> None:
    started = time.monotonic()
    outcome = await run_hook((sys.executable, "-c", program), {}, 0.5)
    assert not outcome.ok
    assert "killed" in outcome.text
    assert time.monotonic() - started < 30
