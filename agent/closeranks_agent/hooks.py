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
READ_BYTES = 1 << 16
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
    output = _Output()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            keeper.__file__,
            str(os.getpid()),
            *argv,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.write_end,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument or in the reason
        output.close()
        return HookOutcome(False, f"hook {argv[0]} could not be started: {error}")
    except BaseException:
        output.close()
        raise
    try:
        output.begin()
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        return HookOutcome(False, f"hook {argv[0]} did not end within {timeout_s:g} s and was killed")
    finally:
        said = output.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(process.pid, signal.SIGKILL)
            await _reap(process)
    if said.startswith(keeper.NOT_STARTED):
        reason = os.strerror(int(said.removeprefix(keeper.NOT_STARTED)))
        return HookOutcome(False, f"hook {argv[0]} could not be started: {reason}")
    words = said.decode("utf-8", "replace").strip().replace("\n", " / ")
    if status:
        return HookOutcome(
            False, f"hook {argv[0]} ended with status {status}" + (f": {words}" if words else "")
        )
    return HookOutcome(True, f"hook {argv[0]} ran")


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Collect a killed hook, unless it stands in the kernel for longer than REAP_MAX_S."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_MAX_S):
            await process.wait()


class _Output:
    """What a hook says, its first OUTPUT_MAX_BYTES, by a pipe of our own.

    What it leaves in the background may hold the pipe for ever: so the end of the program counts, not that of the pipe,
    for which the standard library waits where it has made it.
    """

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._said = b""

    def begin(self) -> None:
        """The program has its end: read on and on, for a full pipe must not stop it."""
        os.close(self.write_end)
        self.write_end = -1
        asyncio.get_running_loop().add_reader(self._read_end, self._take)

    def close(self) -> bytes:
        """What it has said until now."""
        if self.write_end >= 0:
            os.close(self.write_end)
        else:
            self._take()
            asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        return self._said

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            part = os.read(self._read_end, READ_BYTES)
            self._said += part[: OUTPUT_MAX_BYTES - len(self._said)]
            if not part:
                asyncio.get_running_loop().remove_reader(self._read_end)
