"""What an agent streams becomes a root only when it is proven."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from closeranks_coordinator.core.ingest import Accepted, Ingest, Known, Partial
from closeranks_proto.content import ChunkList, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import CodecError, MissingObject, PathError
from closeranks_proto.limits import BROUGHT_MAX, DECAYED_MAX
from closeranks_proto.messages import Announce, Commit, Decayed, Edit, Hand, Resync, Want
from closeranks_proto.tree import Tree

CHUNK = 4096


class World:
    """An agent's objects, a coordinator's objects, and a stream between them."""

    def __init__(self, files: int = 300) -> None:
        self.theirs: dict[bytes, bytes] = {}
        self.stored: dict[bytes, bytes] = {}
        self.tree = Tree(XXH3_128, self._their_object)
        items = [(b"dir\0file%06d" % number, value(b"%d" % number)) for number in range(files)]
        built = self.tree.build(items)
        self.theirs.update(built.pages)
        self.root = built.root
        self.wanted = 0

    def _their_object(self, digest: bytes) -> bytes:
        if digest not in self.theirs:
            raise MissingObject(digest)
        return self.theirs[digest]

    def _stored_object(self, digest: bytes) -> bytes:
        if digest not in self.stored:
            raise MissingObject(digest)
        return self.stored[digest]

    def ingest(self, seq: int = 0, root: bytes | None = None) -> Ingest:
        return Ingest("photos", seq, root, XXH3_128, CHUNK, self._stored_object, self.stored.__contains__)

    def settle(self, ingest: Ingest, outcomes: list[object]) -> Accepted:
        """Answer every Want until the announcement is accepted."""
        while True:
            wants: list[Want] = []
            for outcome in outcomes:
                if isinstance(outcome, (Accepted, Partial)):
                    self.stored.update(outcome.objects)
                if isinstance(outcome, Accepted):
                    return outcome
                if isinstance(outcome, Want):
                    wants.append(outcome)
            assert wants, "neither accepted nor wanting"
            self.wanted += sum(len(want.digests) for want in wants)
            objects = [self.theirs[digest] for want in wants for digest in want.digests]
            outcomes = list(ingest.receive(wants[-1].request, objects, ()))

    def announced(self) -> Ingest:
        ingest = self.ingest()
        self.settle(ingest, list(ingest.announce(Announce("photos", 1, self.root, "scan", 0))))
        return ingest

    def commit(self, seq: int, *edits: Edit) -> Commit:
        edited = self.tree.edit(self.root, [(edit.key, edit.value) for edit in edits])
        self.theirs.update(edited.pages)
        base, self.root = self.root, edited.root
        return Commit("photos", seq, base, self.root, edits, "scan", 5)


def value(content: bytes) -> bytes:
    return encode_entry(Entry(Kind.FILE, len(content), XXH3_128.of(content), 0o644))


def test_an_announced_tree_is_fetched_and_then_accepted() -> None:
    world = World()
    ingest = world.announced()
    assert (ingest.seq, ingest.root) == (1, world.root)
    assert set(world.stored) == {digest for digest, _ in world.tree.pages(world.root, lambda _: False)}


def test_a_second_node_with_the_same_files_sends_only_its_root() -> None:
    world = World()
    world.announced()
    world.wanted = 0
    [outcome] = world.ingest().announce(Announce("photos", 1, world.root, "scan", 0))
    assert isinstance(outcome, Accepted)
    assert outcome.objects == {}
    assert world.wanted == 0


def test_a_commit_that_follows_is_accepted_with_its_new_pages() -> None:
    world = World()
    ingest = world.announced()
    [outcome] = ingest.commit(world.commit(2, Edit(b"dir\0new", value(b"new"))))
    assert isinstance(outcome, Accepted)
    world.stored.update(outcome.objects)
    assert Tree(XXH3_128, world._stored_object).lookup(world.root, b"dir\0new") == value(b"new")


def test_a_commit_seen_before_is_acknowledged_again() -> None:
    world = World()
    ingest = world.announced()
    commit = world.commit(2, Edit(b"dir\0new", value(b"new")))
    ingest.commit(commit)
    assert ingest.commit(commit) == [Known(2)]


@pytest.mark.parametrize("change", ["seq", "base", "root"])
def test_a_commit_that_does_not_follow_is_answered_by_asking_for_an_announcement(change: str) -> None:
    world = World()
    ingest = world.announced()
    good = world.commit(2, Edit(b"dir\0new", value(b"new")))
    bad = Commit(
        "photos",
        3 if change == "seq" else 2,
        bytes(16) if change == "base" else good.base_root,
        bytes(16) if change == "root" else good.root,
        good.edits,
        "scan",
        0,
    )
    [outcome] = ingest.commit(bad)
    assert isinstance(outcome, Resync)
    assert ingest.seq == 1


def test_an_announcement_whose_tree_went_away_is_asked_for_again() -> None:
    world = World()
    ingest = world.ingest()
    outcomes = ingest.announce(Announce("photos", 1, world.root, "scan", 0))
    assert any(isinstance(outcome, Want) for outcome in outcomes)
    [outcome] = ingest.receive(1, (), (world.root,))
    assert isinstance(outcome, Resync)
    assert outcome.seq == 1


def test_edits_out_of_order_break_the_protocol() -> None:
    world = World()
    ingest = world.announced()
    edits = (Edit(b"b", value(b"1")), Edit(b"a", value(b"2")))
    with pytest.raises(CodecError, match="order"):
        ingest.commit(Commit("photos", 2, world.root, bytes(16), edits, "scan", 0))


@pytest.mark.parametrize("key", [b"", b"a\0\0b", b"..", b"a\0..\0b", b"a/b", b"x" * 256])
def test_keys_that_could_leave_the_volume_break_the_protocol(key: bytes) -> None:
    world = World()
    ingest = world.announced()
    with pytest.raises((CodecError, ValueError)):
        ingest.commit(Commit("photos", 2, world.root, bytes(16), (Edit(key, None),), "scan", 0))


def test_a_large_file_must_bring_its_own_chunk_list() -> None:
    world = World()
    ingest = world.announced()
    chunks = encode_chunk_list(ChunkList(CHUNK * 2, CHUNK, 16, bytes(32)))
    entry = encode_entry(Entry(Kind.FILE, CHUNK * 2, XXH3_128.of(chunks), 0o644))
    with pytest.raises(CodecError, match="without its chunk list"):
        ingest.commit(Commit("photos", 2, world.root, bytes(16), (Edit(b"big", entry),), "scan", 0))
    other = encode_chunk_list(ChunkList(CHUNK * 2, CHUNK, 16, bytes(31) + b"x"))
    with pytest.raises(CodecError, match="does not belong"):
        ingest.commit(Commit("photos", 2, world.root, bytes(16), (Edit(b"big", entry, other),), "scan", 0))
    [outcome] = ingest.commit(world.commit(2, Edit(b"big", entry, chunks)))
    assert isinstance(outcome, Accepted)
    assert outcome.objects[XXH3_128.of(chunks)] == chunks


@pytest.mark.parametrize("how", ["commit", "announce"])
def test_a_stored_object_that_is_no_tree_can_not_become_a_root(how: str) -> None:
    world = World()
    ingest = world.announced()
    chunks = encode_chunk_list(ChunkList(2 * CHUNK, CHUNK, 16, XXH3_128.of(b"a") * 2))
    digest = XXH3_128.of(chunks)
    world.stored[digest] = chunks
    edits = (Edit(b"dir\0new", value(b"new")),)
    step = (
        partial(ingest.commit, Commit("photos", 2, world.root, digest, edits, "scan", 0))
        if how == "commit"
        else partial(ingest.announce, Announce("photos", 2, digest, "scan", 0))
    )
    with pytest.raises(CodecError):
        step()
    assert ingest.root == world.root


def test_objects_that_come_late_for_an_earlier_announcement_are_passed_over() -> None:
    world = World()
    ingest = world.ingest()
    [first] = ingest.announce(Announce("photos", 1, world.root, "scan", 0))
    assert isinstance(first, Want)
    late = [world.theirs[digest] for digest in first.digests]
    world.commit(2, Edit(b"dir\0new", value(b"new")))
    [second] = ingest.announce(Announce("photos", 3, world.root, "scan", 0))
    assert isinstance(second, Want)
    assert ingest.receive(first.request, late, ()) == []
    assert world.settle(ingest, [second]).root == world.root


def test_commits_follow_the_announcement_that_was_waited_for() -> None:
    world = World()
    ingest = world.ingest()
    ingest.expect()
    assert ingest.fetching
    world.settle(ingest, ingest.announce(Announce("photos", 1, world.root, "scan", 0)))
    assert not ingest.fetching


@pytest.mark.parametrize("before", [b"", b"\x11\x01", value(b"old") + b"more"])
def test_what_had_decayed_must_have_been_an_entry(before: bytes) -> None:
    """The core compares it with others, and must not end by what one agent says."""
    world = World()
    told = Announce("photos", 1, world.root, "scan", 0, decayed=(Decayed(b"dir\0file", before),))
    with pytest.raises(CodecError):
        world.ingest().announce(told)


@pytest.mark.parametrize("brought", [(b"dir\0\0file",), tuple(b"%d" % at for at in range(BROUGHT_MAX + 1))])
def test_what_was_brought_must_be_paths_and_not_too_many(brought: tuple[bytes, ...]) -> None:
    world = World()
    told = Announce("photos", 1, world.root, "scan", 0, brought=brought)
    with pytest.raises((CodecError, PathError)):
        world.ingest().announce(told)


def test_commits_that_were_in_flight_are_passed_over_until_the_tree_is_here() -> None:
    world = World()
    ingest = world.announced()
    ingest.expect()
    assert ingest.fetching
    assert ingest.commit(world.commit(2, Edit(b"dir\0new", value(b"new")))) == []
    assert (ingest.seq, ingest.fetching) == (1, True)


def test_an_announcement_seen_before_is_acknowledged_again_and_nothing_is_fetched() -> None:
    world = World()
    ingest = world.announced()
    assert ingest.is_at_hand(Announce("photos", 1, bytes(16), "scan", 0))
    assert ingest.announce(Announce("photos", 1, bytes(16), "scan", 0)) == [Known(1)]
    assert (ingest.root, ingest.fetching) == (world.root, False)


def test_a_commit_whose_base_is_stored_no_more_is_answered_by_asking_for_an_announcement() -> None:
    world = World()
    ingest = world.announced()
    del world.stored[world.root]
    commit = world.commit(2, Edit(b"dir\0new", value(b"new")))
    [outcome] = ingest.commit(commit)
    assert isinstance(outcome, Resync)
    assert (outcome.seq, ingest.seq) == (2, 1)


def test_edits_that_lead_elsewhere_than_the_commit_says_are_not_believed() -> None:
    world = World()
    ingest = world.announced()
    commit = world.commit(2, Edit(b"dir\0new", value(b"new")))
    [outcome] = ingest.commit(msgspec.structs.replace(commit, root=bytes(16)))
    assert isinstance(outcome, Resync)
    assert ingest.seq == 1


@pytest.mark.parametrize("by", [(1,), (1, 1, 1), (0, 2)])
def test_hands_that_a_commit_does_not_list_break_the_protocol(by: tuple[int, ...]) -> None:
    world = World()
    ingest = world.announced()
    commit = world.commit(2, Edit(b"dir\0a", value(b"a")), Edit(b"dir\0b", value(b"b")))
    hand = Hand(7, "/usr/bin/anna", "anna", 1, 1, "", (), 0, 0)
    with pytest.raises(CodecError, match="hands that it does not list"):
        ingest.commit(msgspec.structs.replace(commit, hands=(hand,), by=by))
    [outcome] = ingest.commit(msgspec.structs.replace(commit, hands=(hand,), by=(0, 1)))
    assert isinstance(outcome, Accepted)
    assert outcome.by == ((b"dir\0b", 1),)


def test_a_chunk_list_for_what_has_none_breaks_the_protocol() -> None:
    world = World()
    ingest = world.announced()
    chunks = encode_chunk_list(ChunkList(CHUNK + 1, CHUNK, 16, bytes(32)))
    for edit in (
        Edit(b"dir\0short", value(b"short"), chunks),
        Edit(b"dir\0d", encode_entry(Entry(Kind.DIRECTORY, mode=0o755)), chunks),
    ):
        with pytest.raises(CodecError, match="for an entry that has none"):
            ingest.commit(Commit("photos", 2, world.root, bytes(16), (edit,), "scan", 0))


@pytest.mark.parametrize("width", [0, 15, 17])
def test_an_announced_root_of_another_length_breaks_the_protocol(width: int) -> None:
    with pytest.raises(CodecError, match="announced root"):
        World().ingest().announce(Announce("photos", 1, bytes(width), "scan", 0))


def test_more_decayed_paths_than_are_ever_told_break_the_protocol() -> None:
    world = World()
    many = tuple(Decayed(b"%06d" % number, value(b"x")) for number in range(DECAYED_MAX + 1))
    with pytest.raises(CodecError, match="decayed paths"):
        world.ingest().announce(Announce("photos", 1, world.root, "scan", 0, (), many))
    assert world.ingest().announce(Announce("photos", 1, world.root, "scan", 0, (), many[:-1]))


@pytest.mark.parametrize("lie", ["size", "chunk length", "content", "digest width"])
def test_a_chunk_list_that_is_not_its_entrys_breaks_the_protocol(lie: str) -> None:
    world = World()
    ingest = world.announced()
    size = 4 * CHUNK
    made = {
        "size": ChunkList(size - 1, CHUNK, 16, bytes(64)),
        "chunk length": ChunkList(size, 2 * CHUNK, 16, bytes(32)),
        "content": ChunkList(size, CHUNK, 16, bytes(64)),
        "digest width": ChunkList(size, CHUNK, 32, bytes(128)),
    }[lie]
    blob = encode_chunk_list(made)
    digest = bytes(16) if lie == "content" else XXH3_128.of(blob)
    edit = Edit(b"dir\0long", encode_entry(Entry(Kind.FILE, size, digest, 0o644)), blob)
    with pytest.raises(CodecError, match="does not belong"):
        ingest.commit(Commit("photos", 2, world.root, bytes(16), (edit,), "scan", 0))
