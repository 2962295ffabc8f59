"""A hush at random moments of a tree that is turned over at random: whoever looks only where told knows it."""

from __future__ import annotations

import ctypes
import os
import random
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from churn import directories, step
from closeranks_agent.watch import hushed, inotify, polled
from closeranks_agent.watch.events import Lost, What
from closeranks_agent.watch.inotify import InotifySource
from closeranks_proto.paths import key_of
from watched_tree import Mirror, drain, losses, make_tree, names, read_below

SEEDS = range(6)
# A directory that was moved into one that is compared, became known as what is above it moved, and was removed.
UNCOMPARED_SEED = 6105
STEPS = 80


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Small: some directories become too large to be compared, some never are, and storms throw away what is queued."""
    monkeypatch.setattr(inotify, "ANEW_REST_SHARE", 0.0)
    if request.param == "as they are":
        return
    monkeypatch.setattr(polled, "ENTRIES_MAX", 5)
    monkeypatch.setattr(hushed, "ENTRIES_MAX", 5)
    monkeypatch.setattr(hushed, "POLLED_MAX", 24)
    monkeypatch.setattr(hushed, "CALM_LOOKS", 1)
    monkeypatch.setattr(inotify, "UNREAD_MAX_BYTES", 256)


class Observer:
    """Uses a source as a watcher does: no hush in a storm, and behind a storm a scan."""

    def __init__(self, rng: random.Random, root: bytes) -> None:
        self.rng, self.root = rng, root
        private = os.path.join(root, b".closeranks")
        self.private = Path(os.fsdecode(private))
        self.source = InotifySource(root, private, lambda key: False)
        self.mirror = Mirror(root)
        self.mirror.look_below(b"")
        self.is_hushed = self.is_stormy = False

    def act(self) -> None:
        kind = self.rng.random()
        if self.is_stormy:
            self.source.resume()
            self.source.read()
            if self.source.stale or kind < 0.5:
                self.source.pause()
                return
            self.is_stormy = False
            self.mirror.look_below(b"")
        elif kind < 0.35:
            self.read()
        elif kind < 0.65:
            self.hush()
        elif kind < 0.85 and self.is_hushed:
            self.source.ask()
            # At once: what comes and goes between two comparisons is seen by nobody but the scan behind a hush.
            self.unhush() if kind > 0.8 else self.read()
        elif kind < 0.95 and self.is_hushed:
            self.unhush()
        elif kind >= 0.97:
            self.unhush()
            self.source.pause()
            self.is_stormy = True

    def read(self) -> None:
        """Whoever looks at a directory as a whole learns what a comparison has not: it is compared just before."""
        told = self.source.read()
        if self.is_hushed and any(isinstance(one, Lost) or one.what & What.DIRECTORY for one in told):
            self.source.ask()
        self.mirror.take(told)

    def hush(self) -> None:
        """Some directories are those of hot files from here on."""
        some = self.rng.sample(found := directories(self.root), min(len(found), self.rng.randrange(1, 4)))
        inside = (os.path.relpath(os.path.join(one, b"hot"), self.root) for one in some)
        self.source._writing.known = {key_of(path) for path in inside}
        self.source.hush()
        self.is_hushed = True

    def unhush(self) -> None:
        if self.is_hushed:
            self.source.unhush()
            self.is_hushed = False

    def end(self) -> None:
        while self.is_stormy:
            self.act()
        self.unhush()
        self.mirror.take(drain(self.source, self.private))


@pytest.fixture
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def beside(rng: random.Random, root: bytes) -> None:
    """What `churn` does not do: a file is replaced or renamed, a directory is made again, modes change."""
    where = rng.choice(directories(root))
    name, other = (os.path.join(where, b"f%d" % rng.randrange(6)) for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0:
        with open(name + b"~", "wb") as file:
            file.write(b"y" * rng.randrange(9))
        os.rename(name + b"~", name)
    elif kind == 1 and where != root:
        os.rmdir(where)
        os.mkdir(where)
    elif kind == 2:
        os.chmod(name, rng.choice((0o600, 0o640)))
    else:
        os.rename(name, other)


@pytest.fixture
def observer(request: pytest.FixtureRequest, limits: None, tmp_path: Path) -> Iterator[Observer]:
    seed: int = request.param
    observer = Observer(random.Random(seed), os.fsencode(make_tree(tmp_path)))
    yield observer
    observer.source.close()


@pytest.mark.parametrize(
    ("observer", "limits"),
    [*((seed, "small") for seed in SEEDS), (UNCOMPARED_SEED, "as they are")],
    indirect=True,
)
def test_who_looks_only_where_told_knows_a_tree_that_is_hushed_now_and_then(
    observer: Observer, libc: ctypes.CDLL, tmp_path: Path
) -> None:
    outside, root, rng = os.fsencode(tmp_path / "outside"), observer.root, observer.rng
    os.mkdir(outside)
    for _ in range(STEPS):
        for _ in range(rng.randrange(8)):
            with suppress(OSError):  # the tree did not allow it
                beside(rng, root) if rng.random() < 0.3 else step(rng, root, outside, libc)
        observer.act()
    observer.end()
    assert observer.mirror.entries == read_below(root)
    source, everywhere = observer.source, directories(root)
    assert source.unwatched == 0
    assert Path(f"/proc/self/fdinfo/{source._fd}").read_text().count("inotify wd:") == source.watches
    assert source.watches == len(everywhere) + 1
    for directory in everywhere:
        os.close(os.open(os.path.join(directory, b"probe"), os.O_CREAT | os.O_WRONLY))
    told = drain(source, observer.private, ".2")
    assert losses(told) == []
    below = (os.path.relpath(directory, root).replace(b".", b"") for directory in everywhere)
    assert names(told) == {(key_of(path) if path else b"", b"probe") for path in below}
    assert not select.select([source.fileno()], [], [], 0)[0], "nothing is left to do"
