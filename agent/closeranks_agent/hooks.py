"""The operator's own commands at quarantine and release. A hook that fails is an event, never a stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import keeper

OUTPUT_MAX_BYTES = 500
REAP_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class HookOutcome:
    """`text` says in words how it went; empty when no hook is configured."""

    ok: bool
    text: str


async def run_hook(argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> HookOutcome:
    """Run `argv` with `environment` added to ours; kill its whole group after `timeout_s`, or with us."""
    if not argv:
        return HookOutcome(True, "")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            keeper.__file__,
            str(os.getpid()),
            *argv,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument or in the reason
        return HookOutcome(False, f"hook {argv[0]} could not be started: {error}")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            output = await process.stdout.read(OUTPUT_MAX_BYTES)
            while await process.stdout.read(65536):
                pass  # the rest is not kept, but a full pipe must not stop the hook
            status = await process.wait()
    except TimeoutError:
        return HookOutcome(False, f"hook {argv[0]} did not end within {timeout_s:g} s and was killed")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(process.pid, signal.SIGKILL)
            await _reap(process)
    if output.startswith(keeper.NOT_STARTED):
        reason = os.strerror(int(output.removeprefix(keeper.NOT_STARTED)))
        return HookOutcome(False, f"hook {argv[0]} could not be started: {reason}")
    said = output.decode("utf-8", "replace").strip().replace("\n", " / ")
    if status:
        return HookOutcome(
            False, f"hook {argv[0]} ended with status {status}" + (f": {said}" if said else "")
        )
    return HookOutcome(True, f"hook {argv[0]} ran")


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Collect a killed hook. Its exit is only seen once its pipe has been read to the end.

    A grandchild that left the group may hold the pipe open: it is not waited for longer than REAP_MAX_S.
    """
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_MAX_S):
            while await process.stdout.read(65536):
                pass
            await process.wait()
