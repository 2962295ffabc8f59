"""Which watch stands for which directory: what moves takes its subtree along, and what goes gives its watches back."""

from __future__ import annotations

import pytest

from closeranks_agent.watch.watched import Confused, Node, Watched

ROOT = 1


def planted(*paths: bytes) -> tuple[Watched, dict[bytes, Node]]:
    """A tree of these directories, watched in this order from 2 on."""
    watched = Watched(ROOT)
    found: dict[bytes, Node] = {b"": watched.root}
    for number, path in enumerate(paths, ROOT + 1):
        parent, _, name = path.rpartition(b"/")
        node, new, dropped = watched.attach(found[parent], name, number)
        assert (new, dropped) == (True, [])
        found[path] = node
    return watched, found


def keys(watched: Watched, count: int) -> dict[int, bytes | None]:
    """What each watch stands for, of so many."""
    nodes = {watch: watched.get(watch) for watch in range(ROOT, ROOT + count + 1)}
    return {watch: watched.key(node) for watch, node in nodes.items() if node is not None}


def test_a_key_is_made_of_the_names_above() -> None:
    watched, found = planted(b"a", b"a/b", b"a/b/c")
    assert keys(watched, 3) == {1: b"", 2: b"a", 3: b"a\0b", 4: b"a\0b\0c"}
    assert (watched.find(b"a\0b"), watched.find(b"a\0x"), watched.find(b"")) == (
        found[b"a/b"],
        None,
        watched.root,
    )
    assert watched.find(b"a\0b\0c\0d\0e") is None
    assert len(watched) == 4


def test_what_is_told_twice_is_neither_new_nor_displaces_anything() -> None:
    watched, found = planted(b"a", b"a/b")
    assert watched.attach(found[b"a"], b"b", 3) == (found[b"a/b"], False, [])
    assert len(watched) == 3


def test_a_directory_that_moves_takes_its_subtree_along() -> None:
    watched, found = planted(b"a", b"a/b", b"a/b/c", b"d")
    node, new, dropped = watched.attach(found[b"d"], b"renamed", 3)
    assert (node, new, dropped) == (found[b"a/b"], False, [])
    assert keys(watched, 4) == {1: b"", 2: b"a", 3: b"d\0renamed", 4: b"d\0renamed\0c", 5: b"d"}
    assert watched.children(found[b"a"]) == []
    assert watched.child(found[b"d"], b"renamed") is node


def test_what_stood_where_a_directory_moves_to_gives_its_watches_back() -> None:
    watched, found = planted(b"a", b"d", b"d/x", b"d/x/y")
    node, new, dropped = watched.attach(watched.root, b"d", 2)
    assert (node, new, sorted(dropped)) == (found[b"a"], False, [3, 4, 5])
    assert keys(watched, 4) == {1: b"", 2: b"d"}


def test_a_watch_from_below_what_it_displaces_is_as_good_as_new() -> None:
    """`mv d/x tmp; rm -r d; mv tmp d`, heard of in one: its node went with what it displaced."""
    watched, found = planted(b"d", b"d/x")
    node, new, dropped = watched.attach(watched.root, b"d", 3)
    assert (new, dropped) == (True, [2, 3])
    assert node is not found[b"d/x"]
    assert (watched.get(3), keys(watched, 2)) == (node, {1: b"", 3: b"d"})


def test_a_directory_below_itself_is_an_error_and_no_circle() -> None:
    watched, found = planted(b"a", b"a/b", b"a/b/c")
    with pytest.raises(Confused):
        watched.attach(found[b"a/b/c"], b"a", 2)
    with pytest.raises(Confused):
        watched.attach(found[b"a"], b"a", 2)
    assert keys(watched, 3) == {1: b"", 2: b"a", 3: b"a\0b", 4: b"a\0b\0c"}


def test_what_was_moved_away_is_kept_and_has_no_key_until_it_is_seen_again() -> None:
    watched, found = planted(b"a", b"a/b")
    watched.detach(found[b"a"])
    assert (watched.key(found[b"a"]), watched.key(found[b"a/b"])) == (None, None)
    assert len(watched) == 3
    watched.attach(watched.root, b"back", 2)
    assert watched.key(found[b"a/b"]) == b"back\0b"


def test_who_took_the_name_meanwhile_keeps_it_when_the_former_goes() -> None:
    watched, found = planted(b"a")
    watched.detach(found[b"a"])
    node, _, _ = watched.attach(watched.root, b"a", 9)
    watched.detach(found[b"a"])
    assert watched.child(watched.root, b"a") is node


def test_a_directory_that_goes_gives_the_watches_of_all_below_it_back() -> None:
    watched, found = planted(b"a", b"a/b", b"a/b/c", b"d")
    assert sorted(watched.drop(found[b"a"])) == [2, 3, 4]
    assert keys(watched, 4) == {1: b"", 5: b"d"}
    assert (found[b"a/b"].parent, found[b"a"].children) == (None, None)


def test_all_that_is_known_below_is_to_be_listed_once_more() -> None:
    watched, found = planted(b"a", b"a/b", b"a/b/c", b"d")
    for node in found.values():
        node.listed = True
    watched.owe(found[b"a"])
    assert {path for path, node in found.items() if not node.listed} == {b"a", b"a/b", b"a/b/c"}
