"""A filesystem in a sparse file, ext4 by default: a disk of a size of our own that behaves like one. Needs root."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # <linux/fs.h>
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


class LoopDisk:
    """Mounted at `path` while the context lasts; its image lies at `image`."""

    def __init__(self, path: Path, image: Path, size_bytes: int, kind: str = "ext4") -> None:
        self.path, self.image, self.size_bytes, self.kind = path, image, size_bytes, kind
        self.mounted = False

    def mount(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self.size_bytes)
        self._run(*MAKE[self.kind], str(self.image))
        self._run("mount", "-o", "loop", str(self.image), str(self.path))
        self.mounted = True

    def unmount(self) -> None:
        if self.mounted:
            self._run("umount", "--lazy", str(self.path))
            self.mounted = False

    def used_bytes(self) -> int:
        disk = os.statvfs(self.path)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes to it waits until the end, as on a disk that does not answer."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(fd, FITHAW, 0)
        finally:
            os.close(fd)

    def rot(self, path: Path) -> bytes:
        """Flip a bit of a file in the disk's image; what it should hold. Nothing of it stays in memory."""
        good = path.read_bytes()
        with path.open("rb") as file:
            os.fsync(file.fileno())
            block = good[8192:12288]
            with self.image.open("r+b") as image, mmap.mmap(image.fileno(), 0) as below:
                at = below.find(block)
                assert at >= 0, "the block lies in the image as it is"
                assert below.find(block, at + 1) < 0
                below[at + 100] ^= 1
                below.flush()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert path.read_bytes() != good
        return good

    def __enter__(self) -> LoopDisk:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()

    @staticmethod
    def _run(*argv: str) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
        )
        if done.returncode:
            raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
