"""How full the disks are and when they will be: every filesystem that holds a volume or the agent's state.

Asked once a second, each in a thread of its own that lives for that one question: a filesystem that does not
answer (a dead NFS server) holds up nobody, and is not asked again before it has answered. Places on one
filesystem are asked for by one of them; the others only now and then, to see what is mounted anew.

The forecast is the median of the slopes over several spans up to half a minute, and there is none for a single
step: one big file that was copied is no rate.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from closeranks_proto.lines import printable
from closeranks_proto.parts import DiskState

EVERY_S = 1.0
OTHERS_EVERY_S = 30.0  # of the places that share a filesystem with the one that is asked
RETRY_S = 10.0
STALE_S = 15.0  # an answer older than that is none
SAMPLES_MAX = 64
SPANS_S = (2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0)
STEPS_MIN = 3  # separate looks at which room was lost
FILLED_MIN_SHARE = 0.001  # of the free room, in the longest span: less is full in eight hours at the soonest
FILLED_MIN_BYTES = 256 * 1024
FORESEEN_MAX_S = 1e9


class Series:
    """The free room of one filesystem over the last minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def add(self, mono: float, free_bytes: int) -> None:
        self._samples.append((mono, free_bytes))

    def rate_bytes_s(self) -> float:
        """Room lost a second; 0 while it is steady, grows, or is too little known."""
        samples = list(self._samples)
        if len(samples) < 3:
            return 0.0
        now_s, free = samples[-1]
        slopes: list[float] = []
        last = -1
        for span_s in SPANS_S:
            at = max((at for at, (mono, _) in enumerate(samples) if now_s - mono >= span_s - 0.25), default=0)
            if at == last:
                break
            last = at
            elapsed_s = now_s - samples[at][0]
            if elapsed_s > 0:
                slopes.append((samples[at][1] - free) / elapsed_s)
        steps = sum(
            later[1] < before[1] for before, later in zip(samples[last:], samples[last + 1 :], strict=False)
        )
        filled = samples[last][1] - free
        if steps < min(STEPS_MIN, len(samples) - 1) or filled < max(
            FILLED_MIN_BYTES, free * FILLED_MIN_SHARE
        ):
            return 0.0
        return max(0.0, statistics.median(slopes))

    def full_in_s(self) -> float | None:
        """Seconds until nothing is free; None while that can not be foreseen."""
        if not self._samples:
            return None
        free = self._samples[-1][1]
        if free == 0:
            return 0.0
        rate = self.rate_bytes_s()
        return min(FORESEEN_MAX_S, free / rate) if rate > 0 else None


@dataclass(slots=True)
class _Place:
    """One directory that matters: of a volume, or "" for the agent's state."""

    volume: str
    path: str
    device: int | None = None  # None: never answered, or did not the last time
    mount: str = ""
    total: int = 0
    free: int = 0
    taken: int = 0  # by us, of the whole filesystem, when it was asked
    trashed: int = 0  # what the trashes on it hold, likewise
    answered_s: float = float("-inf")
    due_s: float = float("-inf")
    asked: bool = False  # a question is under way
    asked_s: float = 0.0


@dataclass(slots=True)
class _Filesystem:
    places: list[_Place] = field(default_factory=list)
    series: Series = field(default_factory=Series)


class Disks:
    """`places`: (volume or "", path). Ask by `sample` once a second; everything else returns at once."""

    def __init__(
        self,
        places: Sequence[tuple[str, str]],
        clock: Callable[[], float] = time.monotonic,
        taken: Callable[[str], int] = lambda volume: 0,
        trashed: Callable[[str], int] = lambda volume: 0,
    ) -> None:
        """`taken`: what we took of a volume's disk ("": by our own state). `trashed`: what a volume's trash holds.

        Both are asked on any thread.
        """
        self._clock, self._taken, self._trashed = clock, taken, trashed
        self._lock = threading.Lock()
        self._places = [_Place(volume, path) for volume, path in places]
        self._series: dict[int, Series] = {}
        self.look: Callable[[str], tuple[int, int, int]] = _look
        self.mount_of: Callable[[str, int], str] = _mount_of

    def keep(self, places: Sequence[tuple[str, str]]) -> None:
        """Ask about these from now on; what is known of those that stay is kept."""
        with self._lock:
            known = {(place.volume, place.path): place for place in self._places}
            self._places = [known.get(one) or _Place(*one) for one in places]

    def sample(self) -> None:
        """Put the questions that are due; the answers come by themselves."""
        now = self._clock()
        asked: set[int] = set()
        due: list[_Place] = []
        with self._lock:
            for place in self._places:
                if place.device is not None and place.device not in asked:
                    asked.add(place.device)  # whoever comes first is asked for all on this filesystem
                    wanted = True
                else:
                    wanted = now >= place.due_s
                if wanted and not place.asked:
                    place.asked, place.asked_s = True, now
                    place.due_s = now + OTHERS_EVERY_S
                    due.append(place)
        for place in due:
            threading.Thread(target=self._ask, args=(place,), name="closeranks-disk", daemon=True).start()

    def of(self, volume: str) -> tuple[int, int] | None:
        """(total, free) bytes where a volume ("": the agent's state) lies; None while that is not known."""
        found = self._fresh(volume)
        return None if found is None else (found.total, found.free)

    def full_in_s(self, volume: str) -> float | None:
        """None while it can not be foreseen."""
        with self._lock:
            place = self._answering(volume)
            series = None if place is None or place.device is None else self._series.get(place.device)
            return None if series is None else series.full_in_s()

    def states(self) -> tuple[DiskState, ...]:
        """Every filesystem that answers."""
        with self._lock:
            found: dict[int, list[_Place]] = {}
            for place in self._places:
                if place.device is not None:
                    found.setdefault(place.device, []).append(place)
            states = [
                self._state(device, places) for device, places in found.items() if self._is_fresh(places[0])
            ]
        return tuple(sorted(states, key=lambda one: one.path))

    def silent(self) -> tuple[str, ...]:
        """Paths whose filesystem was asked and does not answer."""
        now = self._clock()
        with self._lock:
            return tuple(
                place.path for place in self._places if place.asked and now - place.asked_s > STALE_S
            )

    def _state(self, device: int, places: list[_Place]) -> DiskState:
        series = self._series.setdefault(device, Series())
        volumes = tuple(sorted(place.volume for place in places if place.volume))
        return DiskState(
            printable(places[0].mount),
            volumes,
            any(not place.volume for place in places),
            places[0].total,
            places[0].free,
            round(min(FORESEEN_MAX_S, series.rate_bytes_s()), 1),
            None if (full := series.full_in_s()) is None else round(full, 1),
            places[0].taken,
            places[0].trashed,
        )

    def _fresh(self, volume: str) -> _Place | None:
        with self._lock:
            return self._answering(volume)

    def _answering(self, volume: str) -> _Place | None:
        """The place that is asked for this one's filesystem, if its answer is fresh."""
        own = next((place for place in self._places if place.volume == volume), None)
        if own is None or own.device is None:
            return None
        first = next(place for place in self._places if place.device == own.device)
        return first if self._is_fresh(first) else None

    def _is_fresh(self, place: _Place) -> bool:
        return self._clock() - place.answered_s <= STALE_S

    def _names(self) -> list[str]:
        with self._lock:
            return [one.volume for one in self._places if one.volume]

    def _ask(self, place: _Place) -> None:
        """In a thread of its own."""
        try:
            trashed = {one: self._trashed(one) for one in self._names()}
            # Our state comes first where it lies.
            names = self._names() if place.volume else ["", *self._names()]
            taken = {one: self._taken(one) for one in names}  # before the room, which it explains
            device, total, free = self.look(place.path)
            mount = place.mount if device == place.device else self.mount_of(place.path, device)
        except OSError:
            with self._lock:
                place.device, place.asked, place.due_s = None, False, self._clock() + RETRY_S
            return
        with self._lock:
            place.asked, place.answered_s = False, self._clock()
            place.device, place.mount, place.total, place.free = device, mount, total, free
            place.trashed = sum(trashed.get(one.volume, 0) for one in self._places if one.device == device)
            place.taken = sum(taken.get(one.volume, 0) for one in self._places if one.device == device)
            first = next((one for one in self._places if one.device == device), None)
            if first is place:
                self._series.setdefault(device, Series()).add(place.answered_s, free)
            for gone in set(self._series) - {one.device for one in self._places}:
                del self._series[gone]


def _look(path: str) -> tuple[int, int, int]:
    """(device, total bytes, free bytes). May take for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstatvfs(fd)
        return os.fstat(fd).st_dev, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    finally:
        os.close(fd)


def _mount_of(path: str, device: int) -> str:
    """The highest directory above `path` that is on the same device. May take for ever."""
    place = os.path.realpath(path)
    while place != "/":
        parent = os.path.dirname(place)
        if os.stat(parent).st_dev != device:
            return place
        place = parent
    return place
