"""Other programs to compare with. `bench/install_peers.sh` installs them from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

Word = str | os.PathLike[str]


class NotInstalled(Exception):
    """The peer's program is not on this machine."""


def find(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise NotInstalled(f"{program} is not installed: bench/install_peers.sh")
    return path


def version(program: str) -> str:
    """The first line of what it says of its version, shortened."""
    asked = {"lsyncd": "-version", "hashdeep": "-V"}.get(program, "--version")
    done = subprocess.run([find(program), asked], capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).replace("Version:", program).split()
    return " ".join(words[:3] if program == "rsync" else words[:2])


def command(words: Sequence[Word], accepted: Sequence[int] = (0,)) -> Callable[[], None]:
    """A run of a program to its end, its output thrown away. Raises NotInstalled now, OSError when it fails."""
    return partial(_run, [find(os.fspath(words[0])), *[os.fspath(word) for word in words[1:]]], accepted)


def shell(line: str, *arguments: Word) -> Callable[[], None]:
    """The same for a pipeline; its arguments are `$1`, `$2`, ... Every program of it must succeed."""
    words = ["bash", "-o", "pipefail", "-c", line, "bench", *[os.fspath(word) for word in arguments]]
    return partial(_run, words, (0,))


def _run(words: Sequence[str], accepted: Sequence[int]) -> None:
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode not in accepted:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise OSError(f"{words[0]} ended with {done.returncode}: {said}")
