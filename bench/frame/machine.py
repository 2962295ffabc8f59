"""Which machine a figure is of."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe(place: Path) -> dict[str, object]:
    """CPU, cores that we may use, memory, kernel, the filesystem of `place`, Python."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "filesystem": filesystem(place),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.machine()


def filesystem(place: Path) -> str:
    """The type of the filesystem that holds `place`, by the longest mount point above it."""
    target = os.path.realpath(place)
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, this, *_ = line.split()
        where = mounted.replace("\\040", " ")
        inside = target == where or target.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, this
    return kind
