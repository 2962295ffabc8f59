"""Have/want: collecting everything below a root that this side lacks, from a peer that is not believed.

Both sides use it: the coordinator on an agent's announced root, an agent on the root that it shall converge
to. The walk is depth-first: pages nearest to the leaves are asked for first, an object is handed out
only when everything below it was, so what the caller has stored is closed under "below" at every moment
and an interrupted walk goes on where it was. Held are only the pages whose children are on their way.

What comes is checked as if nobody honest had sent it: it was asked for, has the digest, is canonical, and
stands where its parent says, under the key, with the totals, on the level; only the last page of a
level may be open. So a completed tree is the one tree of its set. Rejected: breadth-first, which holds a
whole level, and storing pages as they come, which leaves parents without children when it is cut off.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .content import decode_chunk_list
from .digests import DigestAlgorithm
from .entries import large_files
from .errors import CodecError
from .limits import CLOSURE_HELD_BYTES, CLOSURE_RECENT_LISTS, TREE_MAX_LEVELS, WANT_MAX_DIGESTS
from .pages import Page, Ref, check_page, decode_page, page_ends


@dataclass(slots=True)
class _Held:
    """A page that has come and waits for `lacking` objects below it."""

    digest: bytes
    blob: bytes
    parent: _Held | None
    lacking: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page stands, by its parent's words. The root's has neither `ref` nor `key`."""

    level: int
    low: bytes  # all keys are greater
    key: bytes | None
    ref: Ref | None
    last: bool  # of its level
    parent: _Held | None


@dataclass(slots=True)
class _List:
    """A chunk list on its way: what its entries say of its size, and the pages that wait for it."""

    size: int
    parents: list[_Held] = field(default_factory=list)


_Expected = _Place | _List


class Closure:
    """One walk. `have(digest)` promises that the whole subtree is at hand.

    With `chunk_bytes` the chunk lists of longer files belong to it. With `source`, what is at hand is also
    compared with what the peer says about it: a root, pages and chunk lists under new pages. Without it
    only what comes is checked, so that a lie about the rest gives a tree whose refs are wrong.

    Raises CodecError for a root at hand that can be none.
    """

    def __init__(
        self,
        algorithm: DigestAlgorithm,
        root: bytes,
        have: Callable[[bytes], bool],
        chunk_bytes: int | None,
        source: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._have = have
        self._chunk_bytes = chunk_bytes
        self._source = source
        self._pending: list[list[tuple[bytes, _Expected]]] = [[] for _ in range(TREE_MAX_LEVELS + 2)]
        self._asked: dict[bytes, _Expected] = {}
        self._lists: dict[bytes, _List] = {}  # pending or asked
        self._places: set[bytes] = set()  # pages pending or asked
        self._recent: OrderedDict[bytes, int] = OrderedDict()  # chunk lists handed out, with their sizes
        self._held_bytes = 0
        self._ready: list[tuple[bytes, bytes]] = []
        self._sound = True  # nothing wrong has come
        place = _Place(TREE_MAX_LEVELS, b"", None, None, True, None)
        if not have(root):
            self._pending[TREE_MAX_LEVELS + 1].append((root, place))
        elif source is not None:
            _check_place(decode_page(source(root)), place)

    @property
    def done(self) -> bool:
        """Whether everything was handed out."""
        return self._sound and not self._asked and not any(self._pending)

    def wants(self) -> tuple[bytes, ...]:
        """The next digests to ask for; () while waiting for those asked for, or done."""
        found: list[bytes] = []
        if not self._sound:
            return ()
        for rank, pending in enumerate(self._pending):  # chunk lists, leaves, then level by level
            while pending and len(self._asked) < WANT_MAX_DIGESTS:
                if rank and self._held_bytes > CLOSURE_HELD_BYTES and self._asked:
                    break
                digest, expected = pending.pop()
                self._asked[digest] = expected
                found.append(digest)
        return tuple(found)

    def receive(self, objects: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Take objects that were asked for; give the (digest, object) that are complete now, children first.

        Raises CodecError or PathError for anything else. The walk is then over and never done; what was
        handed out before is good.
        """
        sound, self._sound = self._sound, False
        if not sound:
            raise CodecError("the walk is over: something wrong has come before")
        for blob in objects:
            digest = self._algorithm.of(blob)
            expected = self._asked.pop(digest, None)
            if expected is None:
                raise CodecError(f"object {digest.hex()} was sent and not asked for")
            if isinstance(expected, _List):
                self._take_list(digest, blob, expected)
            else:
                self._take_page(digest, blob, expected)
        self._sound = True
        ready, self._ready = self._ready, []
        return ready

    def refuse(self, digests: Iterable[bytes]) -> None:
        """The peer does not have these any more: `wants` will name them again, for another peer or time.

        A caller with nobody else to ask drops the walk and starts one with a newer root.
        """
        for digest in digests:
            expected = self._asked.pop(digest, None)
            if expected is None:
                raise CodecError(f"object {digest.hex()} was refused and not asked for")
            self._pend(digest, expected)

    def _pend(self, digest: bytes, expected: _Expected) -> None:
        if isinstance(expected, _List):
            self._pending[0].append((digest, expected))
        elif expected.ref is None:
            self._pending[-1].append((digest, expected))
        else:
            self._pending[expected.level + 1].append((digest, expected))

    # --- what comes ------------------------------------------------------------------------------

    def _take_list(self, digest: bytes, blob: bytes, asked: _List) -> None:
        self._check_list(blob, asked.size)
        del self._lists[digest]
        self._recent[digest] = asked.size
        if len(self._recent) > CLOSURE_RECENT_LISTS:
            self._recent.popitem(last=False)
        self._ready.append((digest, blob))
        for parent in asked.parents:
            self._complete(parent)

    def _check_list(self, blob: bytes, size: int) -> None:
        chunks = decode_chunk_list(blob)
        if (
            chunks.width != self._algorithm.width
            or chunks.chunk_bytes != self._chunk_bytes
            or chunks.size != size
        ):
            raise CodecError("chunk list that does not fit its entry or the volume")

    def _take_page(self, digest: bytes, blob: bytes, place: _Place) -> None:
        page = check_page(blob, self._algorithm)
        _check_place(page, place)
        self._places.discard(digest)
        held = _Held(digest, blob, place.parent)
        if page.level:
            self._expect_pages(page, held, place)
        elif self._chunk_bytes is not None:
            self._expect_lists(page, held)
        self._held_bytes += len(blob)
        held.lacking += 1
        self._complete(held)

    def _complete(self, held: _Held | None) -> None:
        """One thing less that `held` waits for; hand out all that wait for nothing."""
        while held is not None:
            held.lacking -= 1
            if held.lacking:
                return
            self._held_bytes -= len(held.blob)
            self._ready.append((held.digest, held.blob))
            held = held.parent

    def _expect_pages(self, page: Page, held: _Held, place: _Place) -> None:
        low = place.low
        expected: list[tuple[bytes, _Expected]] = []
        for index, (key, ref) in enumerate(zip(page.keys, page.refs, strict=True)):
            last = place.last and index == len(page.keys) - 1
            child = _Place(page.level - 1, low, key, ref, last, held)
            low = key
            if self._have(ref.digest):
                if self._source is not None:
                    _check_place(decode_page(self._source(ref.digest)), child)
            elif ref.digest in self._places:
                raise CodecError("page that stands at two places")
            else:
                self._places.add(ref.digest)
                expected.append((ref.digest, child))
        held.lacking = len(expected)
        self._pending[page.level].extend(reversed(expected))

    def _expect_lists(self, page: Page, held: _Held) -> None:
        assert self._chunk_bytes is not None
        sizes: dict[bytes, int] = {}
        for digest, size in large_files(page.values, self._chunk_bytes, self._algorithm.width):
            if sizes.setdefault(digest, size) != size:
                raise CodecError("one content digest for files of different sizes")
        for digest, size in sizes.items():
            asked = self._lists.get(digest)
            known = size if asked is None else asked.size
            if self._recent.get(digest, known) != size or known != size:
                raise CodecError("one content digest for files of different sizes")
            if asked is not None:
                asked.parents.append(held)
                held.lacking += 1
            elif digest in self._recent:
                continue
            elif self._have(digest):
                if self._source is not None:
                    self._check_list(self._source(digest), size)
            else:
                self._lists[digest] = asked = _List(size, [held])
                self._pending[0].append((digest, asked))
                held.lacking += 1


def _check_place(page: Page, place: _Place) -> None:
    """Raise CodecError unless the page is what its parent says; a root, unless it is the lowest alone on its level."""
    if place.ref is None:
        if page.level and len(page.keys) < 2:
            raise CodecError("root with a single page below it")
        return
    if page.level != place.level or not page.keys or page.keys[0] <= place.low or page.keys[-1] != place.key:
        raise CodecError("page that does not stand where its parent says")
    if page.totals() != place.ref[1:]:
        raise CodecError("page with other totals than its parent says")
    if not place.last and not page_ends(page.level, page.keys, page.items):
        raise CodecError("page that ends too early")
