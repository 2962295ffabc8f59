"""Which paths may have changed, and when each of them should be looked at.

A path is due when nothing was heard of it for QUIET_S; a file that is still open for writing waits longer, for
half a file is of no use to anybody. A lone change of a file is due almost at once (QUICK_S), with the names that
were given up for it. Lone means that nothing else was heard of meanwhile: the first file of a burst must not run
ahead of the rest, or it would be on every replica before a guard can see the burst. What keeps changing is due
AGE_MAX_S after its first change nevertheless, or, where reading it takes long, once in COST_SHARE times that, so
that a huge file rewritten for ever takes a tenth of a core and not all of it. Where several do so that are soon read
they come together: each look is a commit, which costs more than what it says (a database and its log are two files).
A path that could not be finished comes again, later each time.

Bounded: beyond PATHS_MAX the directories with most changed names are to be looked at as a whole, and where
that does not help, everything is (`everything`): a scan. Pure: times are the caller's.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import Final

from closeranks_proto.messages import Hand
from closeranks_proto.paths import parent_key

from .batch import Batch, Heard

QUIET_S: Final = 0.025  # more than the kernel's clock tick: what is read then is settled
OPEN_QUIET_S: Final = 0.1
# It leaves time for the rename or chmod that follows a close, and is more than lies between two files of a burst that
# is watched before it spreads: those are 256 files a second and more.
QUICK_S: Final = 0.005
QUICK_PATHS: Final = 4  # the file, and names that it had before
QUICK_AGAIN_S: Final = 0.1  # a path that changes again so soon is not looked at quickly each time
AGE_MAX_S: Final = 1.0
ALONG_S: Final = 0.5  # so much earlier does one that rests for AGE_MAX_S come along with another
ALONG_COST_S: Final = 0.02  # one that takes longer to read comes alone: nothing waits for others' reading
AGAIN_S: Final = 0.03
AGAIN_DOUBLINGS: Final = 6
COST_SHARE: Final = 10.0
PATHS_MAX: Final = 100_000  # about 400 bytes each
FOLD_TO: Final = PATHS_MAX // 2
BATCH_MAX: Final = 4096  # as many edits as one look commits before it becomes a mass change
KNOWN_MAX: Final = 4096  # paths of which costs or repetitions are kept


@dataclass(slots=True)
class _Path:
    first: float
    last: float
    hand: Hand | None
    tree: bool
    open: bool
    gone: bool = False  # the last that was heard is that the name was given up
    made: bool = False  # as a new file, and not given up since
    again: bool = False  # it changed a moment before as well
    times: int = 1  # that something was heard of it


class Dirty:
    """The changed paths of one volume. Not thread-safe."""

    def __init__(self) -> None:
        self.everything = False
        self._paths: dict[bytes, _Path] = {}
        # Each path stands in one of these: in order of its last event while it is closed or open, or put off.
        self._closed: OrderedDict[bytes, None] = OrderedDict()
        self._opened: OrderedDict[bytes, None] = OrderedDict()
        self._later: dict[bytes, float] = {}
        self._later_heap: list[tuple[float, bytes]] = []
        self._ages: OrderedDict[bytes, float] = OrderedDict()  # those in the first two, by their first event
        self._resting: dict[bytes, float] = {}  # until when a path that takes long to read has a rest
        self._may_join: dict[bytes, float] = {}  # of these, from when it may come along with another
        # Paths that stand here anew, since when something of them is not committed: a proof waits for it.
        self._owed: dict[bytes, float] = {}
        self._repeated: dict[bytes, int] = {}  # how often a path came again without being finished
        # Last, of paths that were looked at in small numbers.
        self._heard: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paths)

    # --- in ------------------------------------------------------------------------------------

    def note(
        self,
        key: bytes,
        now: float,
        hand: Hand | None,
        *,
        tree: bool = False,
        open: bool | None = None,
        gone: bool = False,
        made: bool = False,
    ) -> None:
        """Something happened to `key`; with `tree` to everything below it.

        `open`: whether it is still being written; None: as before. `gone`: the name was given up. `made`: it is a new
        file.
        """
        path = self._paths.get(key)
        if path is None:
            if len(self._paths) >= PATHS_MAX:
                self._fold(now)
                if self.everything:
                    return
            again = self._is_again(key, now)
            path = self._paths[key] = _Path(now, now, hand, tree, bool(open), gone, again=again)
        else:
            path.last, path.tree, path.gone, path.times = now, path.tree or tree, gone, path.times + 1
            path.open = path.open if open is None else open
            if hand is not None:
                path.hand = hand
            self._opened.pop(key, None)
            self._closed.pop(key, None)
        path.made = (path.made or made) and not gone
        if self._resting.get(key, 0.0) > now:
            self._put_off(key, self._resting[key])
        else:
            self._later.pop(key, None)
            (self._opened if path.open else self._closed)[key] = None
            self._ages.setdefault(key, path.first)

    def again(self, keys: Iterable[bytes], hands: Mapping[bytes, Hand], now: float) -> None:
        """A look could not finish these. One at a whole directory may come back with any number of names."""
        for key in keys:
            if key not in self._paths and len(self._paths) >= PATHS_MAX:
                self._fold(now)
                if self.everything:
                    return
            times = self._repeated.get(key, 0)
            if times or len(self._repeated) < KNOWN_MAX:
                self._repeated[key] = times + 1
            if key not in self._paths:
                self._paths[key] = _Path(now, now, hands.get(key), False, False)
                self._put_off(
                    key, max(now + AGAIN_S * 2 ** min(times, AGAIN_DOUBLINGS), self._resting.get(key, 0.0))
                )

    def cost(self, costs: Mapping[bytes, float], hot: Collection[bytes], now: float) -> None:
        """Reading these took so many seconds; `hot` are longer files that come again and again.

        Those come once in AGE_MAX_S: of ten versions a second that fill the network none would get through.
        """
        for key in [key for key, until in self._resting.items() if until <= now]:
            del self._resting[key]
            self._may_join.pop(key, None)
        rests = {key: seconds * COST_SHARE for key, seconds in costs.items()}
        rests |= {key: max(rests.get(key, 0.0), AGE_MAX_S) for key in hot}
        for key, rest_s in rests.items():
            if len(self._resting) < KNOWN_MAX:
                self._resting[key] = now + rest_s
                self._may_join.pop(key, None)  # it came along before its last rest was over
                if key in hot and costs.get(key, 0.0) <= ALONG_COST_S:
                    self._may_join[key] = now + rest_s - ALONG_S

    def clear(self) -> None:
        """A scan will see all of it."""
        self._owed.clear()
        for kept in (self._paths, self._closed, self._opened, self._later, self._ages, self._repeated):
            kept.clear()
        self._later_heap.clear()
        self.everything = False

    # --- out -----------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When the next path is due; None while there is none."""
        found: list[float] = []
        if self._closed:
            found.append(self._paths[next(iter(self._closed))].last + QUIET_S)
            found.append(self._lone_due())
        if self._opened:
            found.append(self._paths[next(iter(self._opened))].last + OPEN_QUIET_S)
        if self._ages:
            found.append(next(iter(self._ages.values())) + AGE_MAX_S)
        while self._later_heap and self._later.get(self._later_heap[0][1]) != self._later_heap[0][0]:
            heapq.heappop(self._later_heap)
        if self._later_heap:
            found.append(self._later_heap[0][0])
        return min(found, default=None)

    def take(self, now: float, since: float | None = None) -> Batch | None:
        """What is due, at most BATCH_MAX paths; with `since` what is known since then or longer, due or not."""
        keys = self._due_keys(now) if since is None else self._oldest(since, now)
        if not keys:
            return None
        names: dict[bytes, set[bytes] | None] = {}
        hands: dict[bytes, Hand] = {}
        owed = {key: self._owed[key] for key in keys if key in self._owed} if self._owed else {}
        seen = now
        if len(keys) <= QUICK_PATHS:
            self._remember(keys)
        for key in keys:
            path = self._remove(key)
            seen = min(seen, path.first)
            if path.hand is not None:
                hands[key] = path.hand
            if path.tree:
                names[key] = None
                continue
            parent, _, name = key.rpartition(b"\0")
            beside = names.setdefault(parent, set())
            if beside is not None:
                beside.add(name)
        asked = {key: None if found is None else frozenset(found) for key, found in names.items()}
        return Batch(asked, Heard(hands, self.own_hand), seen, len(keys), owed)

    def owes(self, since: float) -> bool:
        """Whether something that was heard of by then came back from a look without being committed."""
        return any(first <= since for first in self._owed.values())

    def finished(self, batch: Batch, again: Iterable[bytes], unfinished: Iterable[bytes] = ()) -> None:
        """A look at these has ended; what is not to come again needs no memory. `unfinished`: not committed.

        Where they were folded in the meantime, the directory owes them.
        """
        for key in unfinished:
            if self.everything:
                break
            since = batch.owed.get(key, batch.seen_mono)
            while key not in self._paths:
                assert key, "what is not committed comes again first, or with a directory above it"
                key = parent_key(key)
            self._owed[key] = min(since, self._owed.get(key, since))
        if self._repeated:
            coming = set(again)
            for key in [key for key in self._repeated if key not in coming and key not in self._paths]:
                del self._repeated[key]

    def _due_keys(self, now: float) -> list[bytes]:
        keys: dict[bytes, None] = {}
        if self._lone_due() <= now:
            keys = dict.fromkeys(self._closed)
        for queue, quiet in ((self._closed, QUIET_S), (self._opened, OPEN_QUIET_S)):
            for key in queue:
                if self._paths[key].last + quiet > now or len(keys) >= BATCH_MAX:
                    break
                keys[key] = None
        for key, first in self._ages.items():
            if first + AGE_MAX_S > now or len(keys) >= BATCH_MAX:
                break
            keys[key] = None
        is_one_rested = False
        while self._later_heap and len(keys) < BATCH_MAX:
            when, key = self._later_heap[0]
            if self._later.get(key) == when:
                if when > now:
                    break
                keys[key] = None
                del self._later[key]
                is_one_rested = is_one_rested or (key in self._may_join and when == self._resting.get(key))
            heapq.heappop(self._later_heap)
        if is_one_rested:
            keys.update(dict.fromkeys(islice(self._joining(now), BATCH_MAX - len(keys))))
        return list(keys)

    def _joining(self, now: float) -> Iterator[bytes]:
        """Those that rest and may come along with another."""
        for key, since in self._may_join.items():
            if since <= now and self._later.get(key) == self._resting[key]:
                yield key

    def _lone_due(self) -> float:
        """When a lone change may be looked at, never where there is none."""
        never = float("inf")
        if len(self._closed) > QUICK_PATHS or self._opened:
            return never
        standing = [key for key in self._closed if not self._paths[key].gone]
        if len(standing) != 1:
            return never
        (key,) = standing
        last = max(self._paths[one].last for one in self._closed)
        path = self._paths[key]
        waits = path.again or path.tree or parent_key(key) in self._paths
        return never if waits else last + QUICK_S

    def _is_again(self, key: bytes, now: float) -> bool:
        return now - self._heard.get(key, float("-inf")) < QUICK_AGAIN_S

    def _remember(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._heard[key] = self._paths[key].last
            self._heard.move_to_end(key)
        while len(self._heard) > KNOWN_MAX:
            self._heard.popitem(last=False)

    def _oldest(self, since: float, now: float) -> list[bytes]:
        known = takewhile(lambda one: one[1].first <= since, self._paths.items())
        keys = dict.fromkeys(key for key, _ in islice(known, BATCH_MAX))
        for key, first in self._owed.items():
            if len(keys) >= BATCH_MAX:
                break
            if first <= since and self._later.get(key, now) <= now:
                keys[key] = None
        return list(keys)

    def growing(self, count: int) -> list[tuple[bytes, Hand | None]]:
        """Paths that are still being written, with whose hand it is; also where the next look at them has to wait."""
        return [(key, self._paths[key].hand) for key in islice(chain(self._opened, self._later), count)]

    def closed(self, since: float, count: int) -> list[tuple[bytes, Hand | None, float]]:
        """Paths that nobody holds open and that were heard of after `since`: the latest first, and when that was."""
        found: list[tuple[bytes, Hand | None, float]] = []
        for key in reversed(self._closed):
            path = self._paths[key]
            if path.last <= since or len(found) >= count:
                break
            if not path.tree and not path.gone:
                found.append((key, path.hand, path.last))
        return found

    def heard(self, count: int) -> dict[bytes, int]:
        """How often something was heard of paths that are still being written."""
        return {key: self._paths[key].times for key in islice(self._opened, count)}

    def is_made(self, key: bytes) -> bool:
        """Whether it was made as a new file since it was looked at last."""
        path = self._paths.get(key)
        return path is not None and path.made

    def known(self) -> list[tuple[bytes, Hand | None, bool]]:
        """All paths, each with whose hand it was and whether everything below it is meant."""
        return [(key, path.hand, path.tree) for key, path in self._paths.items()]

    def hand(self, key: bytes) -> Hand | None:
        """Whose hand was seen at `key`, or at a directory above it that changed as a whole. Any thread."""
        path = self._paths.get(key)
        while key and (path is None or path.hand is None):
            key = parent_key(key)
            path = self._paths.get(key)
            if path is not None and not path.tree:
                path = None
        return None if path is None else path.hand

    def own_hand(self, key: bytes) -> Hand | None:
        """Whose hand was heard of at this very path, and nothing of what lies above it. Any thread."""
        path = self._paths.get(key)
        return None if path is None else path.hand

    def _remove(self, key: bytes) -> _Path:
        for queue in (self._closed, self._opened, self._later, self._ages, self._owed):
            queue.pop(key, None)
        return self._paths.pop(key)

    def _put_off(self, key: bytes, until: float) -> None:
        self._ages.pop(key, None)
        if self._later.get(key) != until:
            self._later[key] = until
            heapq.heappush(self._later_heap, (until, key))

    def _fold(self, now: float) -> None:
        """Make room: whole directories in place of most names."""
        beneath = Counter(parent_key(key) for key, path in self._paths.items() if not path.tree)
        wanted = len(self._paths) - FOLD_TO
        folded: set[bytes] = set()
        for directory, count in beneath.most_common():
            if wanted <= 0 or count < 2:
                break
            folded.add(directory)
            wanted -= count
        if wanted > 0 or b"" in folded:
            self.clear()
            self.everything = True
            return
        for key in [key for key in self._paths if parent_key(key) in folded and key]:
            since = self._owed.get(key, self._paths[key].first)
            path = self._remove(key)
            directory = parent_key(key)
            whole = self._paths.get(directory)
            if whole is None:  # not by `note`, which might fold what is being folded here
                self._paths[directory] = _Path(now, now, path.hand, True, False)
                self._closed[directory] = None
                self._ages.setdefault(directory, now)
            else:
                whole.tree = True
            self._owed[directory] = min(since, self._owed.get(directory, since))
