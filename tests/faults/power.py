"""A disk whose power can be cut: what was not synced is gone, as far as a real filesystem lets it go.

A filesystem lies in an image file. What programs write and do not sync stays in the kernel's memory, and the
image does not have it. So a copy of the image *as it is*, taken when the daemon is dead, is what a disk
holds after a power cut; mounting the copy replays the filesystem's own journal, as after any cut. Timers that would
write unsynced data by themselves are set far off, so that only what was asked to be durable is.

What it can not show: a disk that lies about its flushes or reorders writes behind them (all that the
filesystem has handed over counts as written), and half-written sectors. And a filesystem may keep more than
it must: ext4 and XFS make earlier renames durable along with any later sync; btrfs does so less.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final

MAKE: Final = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
# noauto_da_alloc: without the favour that ext4 does to programs that rename without a sync.
# nouuid: the disk before the cut has the same one, and may still be known in another mount namespace.
OPTIONS: Final = {"ext4": "loop,commit=300,noauto_da_alloc", "xfs": "loop,nouuid", "btrfs": "loop,commit=300"}
SIZE_BYTES: Final = 1 << 30  # the image is sparse


class PowerDisk:
    """Mounted at `path` while the context lasts."""

    def __init__(self, kind: str, path: Path, images: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.kind, self.path, self.images, self.size_bytes = kind, path, images, size_bytes
        self.cuts = 0

    @property
    def image(self) -> Path:
        return self.images / f"{self.kind}-{self.cuts}.img"

    def cut(self) -> None:
        """Power loss and the next boot. Nobody may have the disk open."""
        before = self.image
        self.cuts += 1
        self._run("cp", "--sparse=always", "--reflink=auto", str(before), str(self.image))
        self._run("umount", str(self.path))
        before.unlink()
        self._mount()

    def _mount(self) -> None:
        self._run("mount", "-t", self.kind, "-o", OPTIONS[self.kind], str(self.image), str(self.path))

    def __enter__(self) -> PowerDisk:
        self.path.mkdir(parents=True, exist_ok=True)
        self.images.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self.size_bytes)
        self._run(*MAKE[self.kind], str(self.image))
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("umount", "--lazy", str(self.path))
        self.image.unlink()

    @staticmethod
    def _run(*argv: str) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
        )
        if done.returncode:
            raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
