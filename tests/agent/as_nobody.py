"""Converge trees with read-only directories as an ordinary user. Run as a program by root."""

from __future__ import annotations

import asyncio
import encodings.ascii
import encodings.idna  # noqa: F401 (like what follows: read while the interpreter's files may be opened)
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import closeranks_agent.converge.converger  # noqa: F401
from peers_in_process import describe, fill, nodes_in

base = Path(sys.argv[1])
os.setgid(65534)
os.setuid(65534)


async def main() -> None:
    fill(
        base / "n1", {"closed/in/f": b"new", "closed/g": b"same", "closed/goes-dir": b"file", "open/x": b"x"}
    )
    fill(base / "n1", {"fresh/sub/y": b"y", "secret": b"s"})
    fill(
        base / "n2", {"closed/in/f": b"old", "closed/g": b"same", "closed/goes-dir/was": b"w", "open/x": b"x"}
    )
    fill(base / "n2", {"gone/deep/z": b"z"})
    (base / "n1/secret").chmod(0o400)
    for name in ("n1/closed/in", "n1/closed", "n1/open", "n1/fresh/sub", "n1/fresh"):
        (base / name).chmod(0o555)
    for name in ("n2/closed/in", "n2/closed/goes-dir", "n2/closed", "n2/gone/deep", "n2/gone"):
        (base / name).chmod(0o555)
    async with nodes_in(base) as nodes:
        await nodes.add("n1")
        await nodes.add("n2")
        result = await nodes.converge("n2", "n1")
        await nodes.scan("n2")
        equal = describe(base / "n1") == describe(base / "n2") and nodes.root("n1") == nodes.root("n2")
    lifted = os.stat(base / "n2/.closeranks/trash/lifted").st_size
    print(json.dumps({"state": result.state, "detail": result.detail, "equal": equal, "lifted": lifted}))


async def unseen_mode() -> None:
    """A directory that has to be lifted for the work keeps the mode that nobody has seen yet."""
    late = base / "late"
    for node in ("n1", "n2"):
        fill(late / node, {"d/x": b"old"})
    async with nodes_in(late) as nodes:
        await nodes.add("n1")
        await nodes.add("n2")
        root = nodes.root("n2")
        fill(late / "n1", {"d/x": b"new", "d/more": b"m"})
        (late / "n1/d").chmod(0o750)
        await nodes.scan("n1")
        (late / "n2/d").chmod(0o604)
        await nodes.converge("n2", "n1", base=root)
        mode = os.stat(late / "n2/d").st_mode & 0o7777
    print(json.dumps({"mode": oct(mode)}))


asyncio.run(main())
asyncio.run(unseen_mode())
os.system(f"chmod -R u+rwx {base}/n1 {base}/n2 {base}/late")
