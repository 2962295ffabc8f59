"""Rows of a difference: what they count, their order, their pages."""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.diffs import DiffRow, diff_page, row, totals
from closeranks_proto.content import ChunkList, chunk_count, encode_chunk_list
from closeranks_proto.digests import BLAKE3, XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import CodecError, MissingObject
from closeranks_proto.paths import unescape
from closeranks_proto.tree import Tree

CHUNK = 4096
WIDTH = XXH3_128.width


class World:
    """Trees and chunk lists in one store."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.tree = Tree(XXH3_128, self.object)
        self.objects.update(self.tree.empty.pages)

    def object(self, digest: bytes) -> bytes:
        if digest not in self.objects:
            raise MissingObject(digest)
        return self.objects[digest]

    def root(self, items: dict[bytes, bytes]) -> bytes:
        built = self.tree.build(sorted(items.items()))
        self.objects.update(built.pages)
        return built.root

    def file(self, chunks: str, last: int = CHUNK, mode: int = 0o644, stored: bool = True) -> bytes:
        """The entry of a file whose chunks are named by letters, the last of them `last` bytes long."""
        size = (len(chunks) - 1) * CHUNK + last if chunks else 0
        digests = [XXH3_128.of(letter.encode()) for letter in chunks or "-"]
        if len(digests) == 1:
            return encode_entry(Entry(Kind.FILE, size, digests[0], mode))
        blob = encode_chunk_list(ChunkList(size, CHUNK, WIDTH, b"".join(digests)))
        if stored:
            self.objects[XXH3_128.of(blob)] = blob
        return encode_entry(Entry(Kind.FILE, size, XXH3_128.of(blob), mode))

    def row(self, node: bytes | None, against: bytes | None) -> DiffRow:
        return row(b"key", node, against, self.object, WIDTH, CHUNK)

    def page(self, node: dict[bytes, bytes], against: dict[bytes, bytes], **extra: object):
        arguments = {"width": WIDTH, "chunk_bytes": CHUNK, "chunk_list": self.object, **extra}
        return diff_page(self.tree, self.root(node), self.root(against), **arguments)

    def keys(self, node: dict[bytes, bytes], against: dict[bytes, bytes], **extra: object) -> list[bytes]:
        return [one.key for one in self.page(node, against, **extra).rows]


DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))


@pytest.fixture
def world() -> World:
    return World()


# --- one row --------------------------------------------------------------------------------------


def test_only_the_chunks_that_differ_count(world: World) -> None:
    found = world.row(world.file("abXdeYZh"), world.file("abcdefgh"))
    assert (found.change, found.aspects) == ("modified", ("content",))
    assert found.chunks == ((2, 2), (5, 6))
    assert found.bytes == 3 * CHUNK


def test_a_short_last_chunk_counts_its_own_bytes(world: World) -> None:
    found = world.row(world.file("abX", last=10), world.file("abc", last=10))
    assert (found.chunks, found.bytes) == (((2, 2),), 10)


def test_a_grown_file_differs_by_what_it_has_more(world: World) -> None:
    found = world.row(world.file("abcd", last=7), world.file("ab"))
    assert (found.chunks, found.bytes) == (((2, 3),), CHUNK + 7)


def test_a_truncated_file_differs_by_what_it_lacks(world: World) -> None:
    found = world.row(world.file("a"), world.file("abc", last=7))
    assert (found.chunks, found.bytes) == (((1, 2),), CHUNK + 7)


def test_small_files_differ_in_their_only_chunk(world: World) -> None:
    found = world.row(world.file("a", last=5), world.file("b", last=9))
    assert (found.chunks, found.bytes) == (((0, 0),), 9)


def test_a_file_emptied_differs_by_the_file(world: World) -> None:
    assert world.row(world.file(""), world.file("a", last=9)).bytes == 9


def test_a_mode_alone_moves_no_bytes(world: World) -> None:
    found = world.row(world.file("abc", mode=0o600), world.file("abc"))
    assert (found.aspects, found.chunks, found.bytes) == (("mode",), (), 0)


def test_a_file_only_on_the_node_is_added_with_all_its_chunks(world: World) -> None:
    found = world.row(world.file("abc", last=1), None)
    assert (found.change, found.aspects) == ("added", ("presence",))
    assert (found.chunks, found.bytes) == (((0, 2),), 2 * CHUNK + 1)


def test_a_file_not_on_the_node_is_missing_without_reading_its_chunk_list(world: World) -> None:
    found = world.row(None, world.file("abc", stored=False))
    assert (found.change, found.bytes) == ("missing", 3 * CHUNK)


def test_directories_count_no_bytes(world: World) -> None:
    assert world.row(DIRECTORY, None) == DiffRow(b"key", "added", ("presence",))


def test_symlinks_count_no_bytes(world: World) -> None:
    one = encode_entry(Entry(Kind.SYMLINK, 2, target=b"to"))
    other = encode_entry(Entry(Kind.SYMLINK, 4, target=b"else"))
    assert world.row(one, other) == DiffRow(b"key", "modified", ("target",))


def test_a_directory_where_a_file_belongs_counts_the_file(world: World) -> None:
    found = world.row(DIRECTORY, world.file("ab"))
    assert (found.change, found.aspects, found.bytes) == ("modified", ("kind",), 2 * CHUNK)


def test_equal_entries_are_the_same(world: World) -> None:
    assert world.row(DIRECTORY, DIRECTORY) == DiffRow(b"key", "same")


def test_a_chunk_list_that_is_not_at_hand_makes_the_whole_file_count(world: World) -> None:
    found = world.row(world.file("abX", stored=False), world.file("abc"))
    assert (found.chunks, found.bytes) == (((0, 2),), 3 * CHUNK)


def test_a_damaged_chunk_list_makes_the_whole_file_count(world: World) -> None:
    node = world.file("abX")
    for digest in list(world.objects):
        if world.objects[digest].endswith(XXH3_128.of(b"X")):
            world.objects[digest] = b"damaged"
    assert world.row(node, world.file("abc")).bytes == 3 * CHUNK


def test_a_chunk_list_of_another_chunk_length_makes_the_whole_file_count(world: World) -> None:
    size = 3 * CHUNK
    blob = encode_chunk_list(ChunkList(size, 2 * CHUNK, WIDTH, XXH3_128.of(b"a") + XXH3_128.of(b"b")))
    world.objects[XXH3_128.of(blob)] = blob
    cut_otherwise = encode_entry(Entry(Kind.FILE, size, XXH3_128.of(blob), 0o644))
    assert world.row(cut_otherwise, world.file("abc")).bytes == size


def test_a_value_that_is_not_canonical_is_refused(world: World) -> None:
    with pytest.raises(CodecError):
        world.row(b"junk", DIRECTORY)


def test_wide_digests_are_read_as_such() -> None:
    ours, theirs = (encode_entry(Entry(Kind.FILE, 3, BLAKE3.of(data), 0o644)) for data in (b"one", b"two"))
    assert row(b"key", ours, theirs, World().object, BLAKE3.width, CHUNK).bytes == 3


@settings(max_examples=60, deadline=None)
@given(st.text("ab", max_size=6), st.text("ab", max_size=6), st.integers(1, CHUNK), st.integers(1, CHUNK))
def test_ranges_are_apart_ascending_and_within_the_longer_file(
    ours: str, theirs: str, our_last: int, their_last: int
) -> None:
    world = World()
    node, against = world.file(ours, our_last), world.file(theirs, their_last)
    found = world.row(node, against)
    longer = max(int.from_bytes(value[4:12], "big") for value in (node, against))
    ends = [index for span in found.chunks for index in span]
    assert all(first <= last for first, last in found.chunks)
    assert all(a[1] + 1 < b[0] for a, b in zip(found.chunks, found.chunks[1:], strict=False))
    assert all(0 <= index < chunk_count(longer, CHUNK) for index in ends)
    assert found.bytes <= longer
    assert (found.bytes > 0) <= bool(found.chunks)


# --- what the API shows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [b"a/b", b"new\nline", b"\xff\xfe", b"esc\x1b[31m", b"<b>*x*</b>", "\u202egpj".encode(), b"back\\slash"],
)
def test_a_hostile_name_is_shown_on_one_line_and_kept_exactly(path: bytes) -> None:
    view = DiffRow(path.replace(b"/", b"\0"), "added", ("presence",)).view()
    assert str(view["path"]).isprintable()
    assert unescape(str(view["path"])) == path
    assert b64decode(str(view["path_b64"])) == path


def test_a_view_has_the_promised_fields() -> None:
    assert DiffRow(b"a\0b", "modified", ("content",), ((0, 3), (7, 7)), 5).view() == {
        "path": "a/b",
        "path_b64": "YS9i",
        "change": "modified",
        "aspects": ["content"],
        "chunks": [[0, 3], [7, 7]],
        "bytes": 5,
    }


# --- pages ----------------------------------------------------------------------------------------


def many(world: World, count: int, letter: str = "a") -> dict[bytes, bytes]:
    return {b"dir\0%04d" % number: world.file(letter) for number in range(count)}


def test_equal_trees_have_no_rows(world: World) -> None:
    page = world.page(many(world, 300), many(world, 300))
    assert (page.rows, page.next_key) == ((), None)


def test_rows_come_in_the_order_of_keys(world: World) -> None:
    node = {b"a": world.file("a"), b"a.b": world.file("a"), b"a\0b": world.file("a")}
    assert world.keys(node, {}) == [b"a", b"a\0b", b"a.b"]


def test_a_missing_directory_lists_itself_and_everything_beneath(world: World) -> None:
    full = {b"dir": DIRECTORY, **many(world, 3)}
    page = world.page({}, full)
    assert [one.change for one in page.rows] == ["missing"] * 4
    assert page.rows[0].key == b"dir"


@pytest.mark.parametrize("limit", [1, 7, 300, 1000])
def test_pages_join_to_the_whole_without_gap_or_repeat(world: World, limit: int) -> None:
    node, against = many(world, 300), many(world, 300, "b")
    seen: list[bytes] = []
    low: bytes | None = b""
    while low is not None:
        page = world.page(
            node, against, low=low, limit=limit, unreadable={b"dir\x000100.x": "EIO", b"z": "EIO"}
        )
        assert 0 < len(page.rows) <= limit
        seen += [one.key for one in page.rows]
        low = page.next_key
    assert seen == sorted([*node, b"dir\x000100.x", b"z"])


def test_a_last_page_that_is_just_full_has_no_next(world: World) -> None:
    assert world.page(many(world, 5), {}, limit=5).next_key is None


def test_undetermined_paths_are_left_out(world: World) -> None:
    node = many(world, 3)
    assert world.keys(node, {}, skip={b"dir\x000001"}.__contains__) == [b"dir\x000000", b"dir\x000002"]


def test_an_unreadable_path_is_a_row_even_where_entries_are_equal(world: World) -> None:
    both = many(world, 3)
    page = world.page(both, both, unreadable={b"dir\x000001": "Input/output error"})
    assert page.rows == (DiffRow(b"dir\x000001", "unreadable", ("Input/output error",)),)


def test_an_unreadable_path_stands_instead_of_its_difference(world: World) -> None:
    page = world.page(many(world, 2), many(world, 2, "b"), unreadable={b"dir\x000001": ""})
    assert [(one.change, one.aspects) for one in page.rows] == [
        ("modified", ("content",)),
        ("unreadable", ()),
    ]


def test_the_reason_of_an_unreadable_path_is_one_short_line(world: World) -> None:
    page = world.page({}, {}, unreadable={b"x": "bad\nline\x1b[0m" + "x" * 9000})
    (reason,) = page.rows[0].aspects
    assert reason.isprintable()
    assert len(reason) <= 200


def test_unreadable_paths_before_the_page_do_not_come_again(world: World) -> None:
    assert world.keys({}, {}, unreadable={b"a": "", b"m": ""}, low=b"b") == [b"m"]


def test_same_lists_equal_entries_between_the_others(world: World) -> None:
    node = {b"a": DIRECTORY, b"b": world.file("a"), b"d": DIRECTORY, b"e": DIRECTORY}
    against = {b"a": DIRECTORY, b"b": world.file("b"), b"c": DIRECTORY, b"e": DIRECTORY}
    page = world.page(node, against, same=True)
    assert [(one.key, one.change) for one in page.rows] == [
        (b"a", "same"), (b"b", "modified"), (b"c", "missing"), (b"d", "added"), (b"e", "same"),
    ]  # fmt: skip


def test_same_leaves_undetermined_paths_out(world: World) -> None:
    node, against = {b"a": DIRECTORY, b"b": DIRECTORY}, {b"a": world.file("a"), b"b": DIRECTORY}
    assert world.keys(node, against, same=True, skip={b"a"}.__contains__) == [b"b"]


def test_totals_count_what_the_rows_count(world: World) -> None:
    node, against = many(world, 40), {**many(world, 30, "b"), b"x": world.file("abc")}
    arguments = {"width": WIDTH, "chunk_bytes": CHUNK, "chunk_list": world.object}
    rows = world.page(node, against, limit=1000).rows
    counted = totals(world.tree, world.root(node), world.root(against), **arguments)
    assert counted == (41, sum(one.bytes for one in rows))


def test_totals_leave_undetermined_paths_out(world: World) -> None:
    arguments = {"width": WIDTH, "chunk_bytes": CHUNK, "chunk_list": world.object}
    root = world.root(many(world, 3))
    skip = {b"dir\x000000"}.__contains__
    assert totals(world.tree, root, world.tree.empty.root, skip=skip, **arguments) == (2, 2 * CHUNK)


def test_a_page_that_is_not_at_hand_is_said(world: World) -> None:
    with pytest.raises(MissingObject):
        diff_page(
            world.tree,
            b"x" * 16,
            world.tree.empty.root,
            width=WIDTH,
            chunk_bytes=CHUNK,
            chunk_list=world.object,
        )
