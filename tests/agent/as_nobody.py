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


asyncio.run(main())
os.system(f"chmod -R u+rwx {base}/n1 {base}/n2")
