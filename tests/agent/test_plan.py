"""The plan: a pure function of differences and of what is at hand."""

from __future__ import annotations

import pytest

from closeranks_agent.converge.plan import (
    Copy,
    FileNeed,
    LocalContent,
    Place,
    Rules,
    Saw,
    Verb,
    plan,
    step_for_people,
)
from closeranks_agent.disk.records import StatSignature
from closeranks_proto.content import ChunkList, content_digest, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import MissingObject

CHUNK = 65536
OF = XXH3_128.of
SEEN = StatSignature(1, 2, 3, 4, 5)
RULES = Rules(16, CHUNK, False)
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
CLOSED = encode_entry(Entry(Kind.DIRECTORY, mode=0o555))
LINK = encode_entry(Entry(Kind.SYMLINK, 1, target=b"t"))
LISTS: dict[bytes, ChunkList] = {}


def file(data: bytes, mode: int = 0o644) -> bytes:
    digests = b"".join(OF(data[at : at + CHUNK]) for at in range(0, max(1, len(data)), CHUNK))
    digest = content_digest(XXH3_128, len(data), CHUNK, digests)
    if len(data) > CHUNK:
        LISTS[digest] = ChunkList(len(data), CHUNK, 16, digests)
        assert OF(encode_chunk_list(LISTS[digest])) == digest
    return encode_entry(Entry(Kind.FILE, len(data), digest, mode))


def saw(key: bytes, own: bytes | None, target: bytes | None) -> Saw:
    return Saw(key, own, target, SEEN if own is not None else None)


def local(
    whole: dict[bytes, Place] | None = None, chunk: dict[bytes, tuple[Place, int]] | None = None
) -> LocalContent:
    return LocalContent(LISTS.get, whole or {}, chunk or {}, lambda length: OF(bytes(length)))


def order(*saws: Saw, cut: bytes | None = None) -> list[tuple[str, bytes]]:
    return [(str(step.verb), step.key) for step in plan(saws, local(), RULES, cut).steps]


def test_removals_come_deepest_first_then_directories_then_files_then_attributes_of_directories() -> None:
    assert order(
        saw(b"a", None, DIRECTORY),
        saw(b"a\0f", None, file(b"x")),
        saw(b"b", CLOSED, DIRECTORY),
        saw(b"b\0sub", CLOSED, DIRECTORY),
        saw(b"gone", DIRECTORY, None),
        saw(b"gone\0deep", file(b"y"), None),
        saw(b"l", None, LINK),
    ) == [
        ("remove", b"gone\0deep"),
        ("remove", b"gone"),
        ("make_directory", b"a"),
        ("link", b"l"),
        ("fetch", b"a\0f"),
        ("set_attributes", b"b\0sub"),
        ("set_attributes", b"b"),
    ]


def test_a_directory_that_becomes_a_file_is_empty_by_then() -> None:
    assert order(saw(b"d", DIRECTORY, file(b"x")), saw(b"d\0x", LINK, None)) == [
        ("remove", b"d\0x"),
        ("fetch", b"d"),
    ]


def test_a_file_that_becomes_a_directory_is_one_before_its_content_comes() -> None:
    assert order(saw(b"d", file(b"x"), DIRECTORY), saw(b"d\0x", None, LINK)) == [
        ("make_directory", b"d"),
        ("link", b"d\0x"),
    ]


@pytest.mark.parametrize("cut", [b"d", b"d\0x", b"d\0x\0y"])
def test_a_directory_waits_for_what_lies_behind_the_cut(cut: bytes) -> None:
    for target in (None, CLOSED, LINK):
        found = plan([saw(b"d", DIRECTORY, target)], local(), RULES, cut)
        assert (found.steps, [one.key for one in found.waiting]) == ((), [b"d"])


def test_a_directory_before_the_cut_does_not_wait() -> None:
    assert order(saw(b"d", DIRECTORY, None), cut=b"d.x") == [("remove", b"d")]


def test_every_step_carries_what_was_seen() -> None:
    (step,) = plan([saw(b"f", file(b"a"), file(b"b"))], local(), RULES).steps
    assert (step.own, step.target, step.seen) == (file(b"a"), file(b"b"), SEEN)


def need(own: bytes | None, target: bytes, at_hand: LocalContent) -> FileNeed:
    (step,) = plan([saw(b"f", own, target)], at_hand, RULES).steps
    assert step.need is not None
    return step.need


def chunks(text: str) -> bytes:
    """A chunk for each letter; `0` is zeros; a last dot is a short tail."""
    return b"".join(
        bytes(CHUNK) if one == "0" else b"tail" if one == "." else one.encode() * CHUNK for one in text
    )


HERE = Place(False, b"f")
THERE = Place(False, b"g")


def test_only_differing_chunks_are_fetched() -> None:
    found = need(file(chunks("abcd")), file(chunks("aXcdY")), local())
    assert found.fetch == (1, 4)
    assert found.copies == (Copy(0, 1, HERE, 0), Copy(2, 2, HERE, 2))
    assert (found.fetch_bytes, found.stage_bytes) == (2 * CHUNK, 5 * CHUNK)


def test_zeros_are_neither_fetched_nor_copied() -> None:
    found = need(None, file(chunks("0a00b0")), local())
    assert (found.fetch, found.copies, found.stage_bytes) == ((1, 4), (), 2 * CHUNK)


def test_the_whole_content_elsewhere_is_copied() -> None:
    target = file(chunks("abc."))
    digest = next(digest for digest, one in LISTS.items() if one.size == 3 * CHUNK + 4)
    found = need(None, target, local(whole={digest: THERE}))
    assert (found.fetch, found.copies) == ((), (Copy(0, 4, THERE, 0),))
    assert found.stage_bytes == 3 * CHUNK + 4


def test_chunks_of_other_files_are_copied() -> None:
    at_hand = local(chunk={OF(b"b" * CHUNK): (THERE, 7), OF(b"c" * CHUNK): (THERE, 8)})
    found = need(file(b"short"), file(chunks("abc")), at_hand)
    assert (found.fetch, found.copies) == ((0,), (Copy(1, 2, THERE, 7),))


def test_empty_files_need_nothing() -> None:
    (step,) = plan([saw(b"f", None, file(b""))], local(), RULES).steps
    assert (step.verb, step.need and step.need.fetch) == (Verb.COPY, ())


def test_mode_alone_is_set_without_content() -> None:
    assert order(saw(b"f", file(b"x", 0o600), file(b"x", 0o644))) == [("set_attributes", b"f")]


@pytest.mark.parametrize(
    ("own", "target", "withheld"),
    [
        (0o755, 0o4755, True),
        (0o4755, 0o755, False),
        (0o2755, 0o4755, False),
        (0o2775, 0o3775, True),
        (0o644, 0o4755, False),
    ],
)
def test_special_bits_are_withheld_when_nothing_else_is_to_be_written(
    own: int, target: int, withheld: bool
) -> None:
    found = plan([saw(b"f", file(b"x", own), file(b"x", target))], local(), RULES)
    assert (bool(found.withheld), bool(found.steps)) == (withheld, not withheld)
    allowed = plan([saw(b"f", file(b"x", own), file(b"x", target))], local(), Rules(16, CHUNK, True))
    assert allowed.withheld == ()


def test_a_missing_chunk_list_is_said() -> None:
    with pytest.raises(MissingObject):
        plan([saw(b"f", None, encode_entry(Entry(Kind.FILE, 10 * CHUNK, b"u" * 16, 0o644)))], local(), RULES)


def test_people_are_told_what_becomes_of_what() -> None:
    steps = plan(
        [
            saw(b"a", file(b"x", 0o600), file(b"x", 0o644)),
            saw(b"b", LINK, file(b"y")),
            saw(b"c", DIRECTORY, None),
            saw(b"d", None, file(b"z")),
        ],
        local(whole={OF(b"z"): Place(True, b"000000000001")}),
        RULES,
    ).steps
    told = {one.key: (one.verb, one.note) for one in (step_for_people(step, 16) for step in steps)}
    assert told == {
        b"a": ("set_attributes", "mode 0600 to 0644"),
        b"b": ("fetch", "replaces a symlink, which goes to the trash"),
        b"c": ("remove", "directory goes to the trash"),
        b"d": ("copy", "new; content from the trash"),
    }


# --- renames --------------------------------------------------------------------------------------


def moving(*saws: Saw) -> list[tuple[str, bytes, bytes | None]]:
    """(verb, key, the path that goes) of a plan that may rename."""
    steps = plan(saws, local(), RULES, None, moves=True).steps
    return [(str(one.verb), one.key, one.source.key if one.source else None) for one in steps]


def test_what_goes_and_what_comes_with_the_very_same_entry_is_one_rename() -> None:
    """In whatever order the differences come. The directory that it leaves goes behind it."""
    assert moving(
        saw(b"new", None, DIRECTORY),
        saw(b"old\0f", file(b"x"), None),
        saw(b"old", DIRECTORY, None),
        saw(b"new\0f", None, file(b"x")),
    ) == [
        ("make_directory", b"new", None),
        ("move", b"new\0f", b"old\0f"),
        ("remove", b"old", None),
    ]


def test_the_path_that_moves_carries_what_was_seen_of_it() -> None:
    (step,) = plan(
        [saw(b"a", file(b"x"), None), saw(b"b", None, file(b"x"))], local(), RULES, None, moves=True
    ).steps
    assert step.source == saw(b"a", file(b"x"), None)
    assert (step.own, step.target, step.seen) == (None, file(b"x"), None)


def test_what_stays_moves_nowhere() -> None:
    """A file that gets another content had the very entry that is wanted elsewhere: it is no rename."""
    assert moving(saw(b"a", file(b"x"), file(b"y")), saw(b"b", None, file(b"x"))) == [
        ("fetch", b"a", None),
        ("fetch", b"b", None),
    ]


def test_nothing_moves_over_what_is_there() -> None:
    assert moving(saw(b"a", file(b"x"), None), saw(b"b", file(b"y"), file(b"x"))) == [
        ("fetch", b"b", None),
        ("remove", b"a", None),
    ]


def test_one_path_moves_to_one_name_only_and_directories_and_links_do_not() -> None:
    found = moving(
        saw(b"a", file(b"x"), None),
        saw(b"b", None, file(b"x")),
        saw(b"c", None, file(b"x")),
        saw(b"d", DIRECTORY, None),
        saw(b"e", None, DIRECTORY),
        saw(b"l", LINK, None),
        saw(b"m", None, LINK),
    )
    assert [one for one in found if one[0] == "move"] == [("move", b"b", b"a")]
    assert [one[1] for one in found if one[0] != "move"] == [b"l", b"d", b"e", b"m", b"c"]


def test_without_moves_the_same_is_a_removal_and_a_new_file() -> None:
    assert order(saw(b"a", file(b"x"), None), saw(b"b", None, file(b"x"))) == [
        ("fetch", b"b"),
        ("remove", b"a"),
    ]


def test_what_comes_under_another_name_goes_when_that_is_there_and_its_directory_after_it() -> None:
    steps = plan(
        [
            saw(b"d", DIRECTORY, None),
            saw(b"d\0other", file(b"y"), None),
            saw(b"d\0x", file(b"x"), None),
            saw(b"e", None, file(b"x", 0o600)),
            saw(b"f", None, file(b"x")),
            saw(b"z", file(b"z"), None),
        ],
        local(), RULES,
    ).steps  # fmt: skip
    assert [(str(one.verb), one.key) for one in steps] == [
        ("remove", b"z"), ("remove", b"d\0other"),
        ("fetch", b"e"), ("fetch", b"f"),
        ("remove", b"d\0x"), ("remove", b"d"),
    ]  # fmt: skip
    assert {one.key: one.heirs for one in steps if one.heirs} == {b"d\0x": (b"e", b"f")}


@pytest.mark.parametrize(
    ("saws", "first"),
    [
        (
            (saw(b"A", file(b"x"), None), saw(b"a", None, file(b"y")), saw(b"b", None, file(b"x"))),
            [b"A"],
        ),  # something else gets its name
        (
            (
                saw(b"Photos", DIRECTORY, None),
                saw(b"Photos\0x", file(b"x"), None),
                saw(b"photos", None, DIRECTORY),
                saw(b"photos\0y", None, file(b"x")),
            ),
            [b"Photos\0x", b"Photos"],
        ),  # its directory's name is needed
    ],
)
def test_where_case_counts_for_nothing_no_new_name_waits_for_one_that_goes(
    saws: tuple[Saw, ...], first: list[bytes]
) -> None:
    """Each waited for the other: the new name was a twin of the old one, which stayed until it was there."""
    assert [key for verb, key in order(*saws) if verb == "remove"] == first
    assert [key for _, key in order(*saws)][: len(first)] == first


@pytest.mark.parametrize(
    "saws",
    [
        (
            saw(b"d", DIRECTORY, file(b"x")),
            saw(b"d\0x", file(b"x"), None),
        ),  # its own directory becomes the file
        (
            saw(b"A", file(b"x"), None),
            saw(b"a", None, file(b"x")),
        ),  # where case counts for nothing it is one name
        (saw("e\u0301".encode(), file(b"x"), None), saw("\u00e9".encode(), None, file(b"x"))),
        (saw(b"a", file(b""), None), saw(b"b", None, file(b""))),  # nothing to lose
    ],
)
def test_what_stands_in_the_way_of_its_own_content_goes_first(saws: tuple[Saw, ...]) -> None:
    found = order(*saws)
    assert [verb for verb, _ in found] == ["remove", "fetch" if saws[0].own != file(b"") else "copy"]


# --- chunks ---------------------------------------------------------------------------------------


def test_chunks_that_do_not_follow_each_other_where_they_lie_are_copied_one_by_one() -> None:
    elsewhere = Place(False, b"h")
    at_hand = local(
        chunk={
            OF(b"b" * CHUNK): (THERE, 7),
            OF(b"c" * CHUNK): (THERE, 9),
            OF(b"d" * CHUNK): (elsewhere, 10),
        }
    )
    found = need(None, file(chunks("bcdab")), at_hand)
    assert found.fetch == (3,)
    assert found.copies == (
        Copy(0, 1, THERE, 7),
        Copy(1, 1, THERE, 9),
        Copy(2, 1, elsewhere, 10),
        Copy(4, 1, THERE, 7),
    )


def test_short_zeros_are_fetched_like_anything_else() -> None:
    found = need(None, file(bytes(CHUNK - 1)), local())
    assert (found.fetch, found.fetch_bytes) == ((0,), CHUNK - 1)
    assert need(None, file(bytes(CHUNK)), local()).fetch == ()


def test_the_same_place_of_the_same_file_comes_before_any_other() -> None:
    """It is never gone by the time it is copied: it is the file that is replaced."""
    target = file(chunks("abX"))
    whole = {target[12:28]: THERE}
    found = need(file(chunks("ab")), target, local(whole=whole))
    assert found.copies == (Copy(0, 2, HERE, 0), Copy(2, 1, THERE, 2))
