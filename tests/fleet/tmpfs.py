"""A small filesystem of our own, for disks that fill and roots that are unmounted. Needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType


class Tmpfs:
    """A tmpfs of a given size, mounted while the context lasts."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.mounted = False

    def mount(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", f"size={self.size_bytes},mode=0755", "tmpfs", str(self.path))
        self.mounted = True

    def resize(self, size_bytes: int) -> None:
        self._run("mount", "-o", f"remount,size={size_bytes}", str(self.path))
        self.size_bytes = size_bytes

    def unmount(self) -> None:
        if self.mounted:
            self._run("umount", "--lazy", str(self.path))
            self.mounted = False

    def fill(self, leave_bytes: int, name: str = "ballast") -> Path:
        """A file at the top of the mount that leaves that much room."""
        disk = os.statvfs(self.path)
        ballast = self.path / name
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(0, disk.f_bavail * disk.f_frsize - leave_bytes))
        return ballast

    def __enter__(self) -> Tmpfs:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()

    @staticmethod
    def _run(*argv: str) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
