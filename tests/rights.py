"""What this process may do to the machine that it runs on.

Root in a container is often root of a user namespace, or has no right to mount, or no loop devices. A test that tries
all the same fails by its own preparation, and says nothing about closeranks.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache

CAP_SYS_ADMIN = 21
WHOLE = ["0", "0", "4294967295"]  # /proc/self/uid_map where nobody has been renumbered


@cache
def lacking() -> str:
    """What keeps this process from mounting disks, giving files away and making networks; "" where nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if file.read().split() != WHOLE:
            return "needs root: this one is root of a user namespace alone"
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        (rights,) = (int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if not rights >> CAP_SYS_ADMIN & 1:
        return "needs root with CAP_SYS_ADMIN: without it nothing can be mounted"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "needs loop devices: there is no /dev/loop-control to be used"
    with tempfile.TemporaryDirectory() as place:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, text=True)
        if mounted.returncode:
            return f"needs mounts: {mounted.stderr.strip()}"
        subprocess.run(["umount", place], check=True, capture_output=True)
    return ""
