"""Kill a converge or a push at every call that changes something on disk, run it again, and compare. A program.

`late`: the converge of a node that is only behind, with a trash in which the oldest must give way to the rest.

Prints one JSON line: how many points were killed at, and every violation found. Each run is a fork, so a
kill is a real end of a process: no `finally` runs, no buffer is flushed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from closeranks_agent import beneath, syscalls
from closeranks_agent.converge import durable, ledger
from closeranks_agent.disk.volume import Volume
from peers_in_process import CHUNK, contents_below, describe, fill, nodes_in

BASE = Path(sys.argv[1])
STRIDE = int(sys.argv[2])
KIND = sys.argv[3]
OWN = b"set aside by a repair"
TRASH_MAX_BYTES = 3 * CHUNK + 1000  # not all that a late node must let go of


def prepare() -> None:
    """n1 is the target; n2 differs in every way; `original` keeps n2 as it was."""
    big = os.urandom(3 * CHUNK)
    fill(
        BASE / "n1",
        {"same": b"same", "a/changed": b"new", "a/big": big, "dir-to-file": b"file now", "new/x": b"x"},
    )
    fill(BASE / "n1", {"file-to-dir/inner": b"inner", "renamed-to": b"wanders" * 99})
    os.symlink("new", BASE / "n1/link")
    damaged = big[:CHUNK] + b"?" + big[CHUNK + 1 :]
    fill(
        BASE / "n2", {"same": b"same", "a/changed": b"old", "a/big": damaged, "dir-to-file/was": b"was here"}
    )
    fill(
        BASE / "n2", {"file-to-dir": b"was a file", "renamed-from": b"wanders" * 99, "extra/deep/y": b"rogue"}
    )
    os.symlink("old", BASE / "n2/link")
    os.chmod(BASE / "n2/same", 0o600)
    if KIND == "late":
        fill(BASE / "n2", {"extra/deep/y": b"rogue" * 160})
    shutil.copytree(BASE / "n2", BASE / "original", symlinks=True)


def arm(point: int) -> None:
    """Exit at the `point`-th change: before it when even, right after it when odd."""
    calls = 0

    def wrap(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            if calls == point:
                os._exit(99)
            calls += 1
            result = inner(*args, **kwargs)
            if calls == point:
                os._exit(99)
            calls += 1
            return result

        setattr(owner, name, counted)

    for owner, name in (
        (beneath, "exchange"),
        (beneath, "move_new"),
        (ledger.Ledger, "append"),
        (ledger.Ledger, "sync"),
        (ledger.Ledger, "replace"),
        (syscalls, "sync_filesystem"),
        (syscalls, "allocate"),
        (Volume, "apply"),
        (durable, "sync_files"),
        (os, "mkdir"),
        (os, "rmdir"),
        (os, "unlink"),
        (os, "symlink"),
        (os, "pwrite"),
        (os, "fchmod"),
        (os, "chmod"),
        (os, "ftruncate"),
    ):
        wrap(owner, name)


async def converge(point: int | None) -> str:
    changes = {"trash_max_bytes": TRASH_MAX_BYTES} if KIND == "late" else {}
    async with nodes_in(BASE, **changes) as nodes:
        await nodes.add("n1")
        await nodes.add("n2")
        if KIND == "late":
            fill(BASE / "n2/.closeranks/trash/items", {"000000000001": OWN})
        if point is not None:
            arm(point)
        if KIND == "push":
            pushed = await nodes.push("n2", "n1")
            whole = not (pushed.skipped or pushed.failed)
            return f"{'done' if whole else 'partial'} {pushed.detail}"
        if KIND == "late":
            result = await nodes.converge("n2", "n1", incident="", base=nodes.root("n2"), ordinary=True)
        else:
            result = await nodes.converge("n2", "n1")
        return f"{result.state} {result.detail}"


def forked(point: int | None) -> tuple[int, str]:
    """(exit code, what it said) of a converge in its own process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            os.write(writer, asyncio.run(converge(point)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def gave_way() -> bool:
    held = contents_below(BASE / "n2/.closeranks/trash/items")
    return sum(map(len, held)) <= TRASH_MAX_BYTES and b"rogue" * 160 not in held


def main() -> None:
    prepare()
    originals = {OWN} if KIND == "late" else set(contents_below(BASE / "original"))
    wanted = describe(BASE / "n1")
    violations: list[str] = []
    point = killed = 0
    while True:
        for name in ("n2", "state-n2", "state-n1"):
            shutil.rmtree(BASE / name, ignore_errors=True)
        shutil.copytree(BASE / "original", BASE / "n2", symlinks=True)
        code, text = forked(point)
        if code == 0:
            if not text.startswith("done"):
                violations.append(f"whole run: {text}")
            break
        if code != 99:
            violations.append(f"point {point}: exit {code}")
            break
        killed += 1
        missing = originals - set(contents_below(BASE / "n2"))
        if missing:
            violations.append(f"point {point}: lost {missing!r} at the kill")
        code, text = forked(None)
        if code or not text.startswith("done"):
            violations.append(f"point {point}: the next run ended with {code}: {text}")
        elif describe(BASE / "n2") != wanted:
            violations.append(f"point {point}: the next run did not reach the target")
        elif originals - set(contents_below(BASE / "n2")):
            violations.append(f"point {point}: the next run lost something")
        elif KIND == "late" and not gave_way():
            violations.append(f"point {point}: the trash holds more than it may, or all that was let go of")
        elif os.listdir(BASE / "n2/.closeranks/stage"):
            violations.append(f"point {point}: the stage is not clean")
        point += STRIDE
    print(json.dumps({"killed": killed, "violations": violations}))


main()
