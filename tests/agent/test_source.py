"""Which source is chosen, and the words that say why not a better one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from closeranks_agent.watch import calls
from closeranks_agent.watch.source import Source, open_source, permitted
from watched_tree import drain, make_tree, paths

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="fanotify and mounting need root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


def opened(tree: Path, prefer: str | None = None) -> tuple[Source | None, str]:
    return open_source(os.fsencode(tree), os.fsencode(tree / ".closeranks"), prefer=prefer, own_pid=-1)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    ("prefer", "kind"),
    [(None, "fanotify"), ("auto", "fanotify"), ("fanotify", "fanotify"), ("inotify", "inotify")],
)
def test_root_gets_what_it_asks_for(tree: Path, prefer: str | None, kind: str) -> None:
    source, detail = opened(tree, prefer)
    assert source is not None
    assert source.kind == kind
    assert detail == ("" if kind == "fanotify" else "this volume's `watch` asks for inotify")
    (tree / "f").write_text("")
    assert paths(drain(source, tree / ".closeranks")) == {"f"}
    source.close()
    source.close()


def test_rescan_opens_nothing(tree: Path) -> None:
    assert opened(tree, "rescan") == (None, "this volume's `watch` asks for scans only")


@pytest.mark.root  # who is not, is told that first
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EXDEV, "btrfs subvolume"),
        (errno.EOPNOTSUPP, "no file handles"),
        (errno.EPERM, "needs root"),
        (errno.ENODEV, "no id"),
    ],
)
def test_what_fanotify_refuses_is_said_and_inotify_takes_over(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(flags: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(calls, "fanotify_init", refuse)
    source, detail = opened(tree)
    assert source is not None
    assert source.kind == "inotify"
    assert words in detail
    source.close()


@pytest.mark.root
def test_without_either_both_reasons_are_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(calls, "fanotify_init", refuse)
    monkeypatch.setattr(calls, "inotify_init", refuse)
    source, detail = opened(tree)
    assert source is None
    assert "max_user_groups" in detail
    assert "max_user_instances" in detail
    assert [(kind, ok) for kind, ok, _ in permitted(os.fsencode(tree))] == [
        ("fanotify", False),
        ("inotify", False),
    ]


def test_a_filesystem_shared_with_other_machines_is_rescanned_unless_told_otherwise(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "filesystem_of", lambda fd: "nfs4")
    source, detail = opened(tree)
    assert source is None
    assert "nfs4 is written by other machines" in detail
    assert not any(ok for _, ok, _ in permitted(os.fsencode(tree)))
    source, _ = opened(tree, "inotify")
    assert source is not None
    source.close()


def test_a_root_that_is_not_there_gives_no_source(tmp_path: Path) -> None:
    source, detail = opened(tmp_path / "missing")
    assert source is None
    assert "not there" in detail


def test_the_filesystem_of_a_directory_is_named(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_PATH)
    try:
        assert calls.filesystem_of(fd) == "proc"
    finally:
        os.close(fd)


@pytest.mark.root
@needs_root
def test_an_ordinary_user_gets_inotify_and_the_reason(tmp_path: Path) -> None:
    program = (
        "import encodings.idna, os, sys, tempfile\n"
        "from closeranks_agent.watch.source import open_source\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with tempfile.TemporaryDirectory(dir='/tmp') as tree:\n"
        "    source, detail = open_source(tree.encode(), tree.encode() + b'/.closeranks')\n"
        "    print(source.kind, detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("inotify no fanotify: it needs root (CAP_SYS_ADMIN")
