"""What the environment of `make demo` says, parsed once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NODES = 16


class Wrong(Exception):
    """The demo can not begin; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    tree: Path | None  # None: a photo-like tree is generated
    port: int | None  # of the API
    keep: bool
    base: Path  # where runs live
    seed: int


def read_settings(environment: dict[str, str]) -> Settings:
    tree = environment.get("TREE") or None
    if tree is not None and not Path(tree).is_dir():
        raise Wrong(f"TREE={tree} is not a directory; name one that this user may read, or leave TREE out.")
    port = environment.get("PORT") or None
    if port is not None and not (port.isdigit() and 0 < int(port) < 65536):
        raise Wrong(f"PORT={port} is not a port; give a number from 1 to 65535, or leave PORT out.")
    base = Path(environment.get("DEMO_DIR") or ".demo").absolute()
    if tree is not None and base.is_relative_to(Path(tree).resolve()):
        raise Wrong(
            f"The copies would lie inside TREE={tree} (in {base}); name a place outside it with DEMO_DIR=."
        )
    seed = environment.get("SEED") or str(int.from_bytes(os.urandom(4), "big"))
    if not seed.isdigit():
        raise Wrong(f"SEED={seed} is not a number.")
    keep = environment.get("KEEP", "") not in ("", "0", "no", "false")
    return Settings(
        Path(tree).resolve() if tree else None, int(port) if port else None, keep, base, int(seed)
    )
