"""Lag, divergence and regression; and that an analysis made step by step is the one made at once."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.history import TruthHistory
from closeranks_coordinator.core.judge import (
    Analysis,
    Judge,
    Passed,
    Stand,
    same_but_special_bits,
)
from closeranks_coordinator.core.truth import Differ
from closeranks_proto.entries import Entry, Kind, encode_entry
from forest.store import Forest, small_value

OLD, NEW, LATER, OTHER = (small_value(number) for number in (2, 6, 10, 14))
Files = dict[bytes, bytes]


class Bench:
    """A truth that moves, and one node held against it."""

    def __init__(self, *truths: Files) -> None:
        self.forest = Forest()
        self.differ = Differ(self.forest.tree)
        self.judge = Judge(self.differ, 16)
        self.history = TruthHistory(self.differ, [], 0.0)
        for truth in truths:
            self.move(truth)

    def move(self, truth: Files) -> None:
        self.truth = self.forest.plant(truth)
        self.history.move(self.truth, 0.0)

    def look(self, files: Files, held: Files, *, replays: bool = False, **more: object) -> Analysis:
        stand = Stand(self.forest.plant(files), self.truth, self.forest.plant(held), more.pop("withheld", ()))  # type: ignore[arg-type]
        found, _ = self.judge.analyse(self.history, stand, replays=replays)
        self.forest.objects.update(found.pages)
        return found

    def held(self, found: Analysis) -> Files:
        assert found.held is not None
        return dict(self.forest.tree.walk(found.held))


def test_equal_to_the_truth_is_nothing_at_all() -> None:
    bench = Bench({b"a": OLD}, {b"a": NEW})
    found = bench.look({b"a": NEW}, {b"a": OLD})
    assert (dict(found.differing), found.divergent, bench.held(found)) == ({}, 0, {b"a": NEW})


def test_what_it_held_before_the_truth_moved_on_is_lag() -> None:
    found = Bench({b"a": OLD}, {b"a": NEW, b"b": NEW}).look({b"a": OLD}, {b"a": OLD})
    assert (set(found.lagging), found.divergent) == ({b"a", b"b"}, 0)


def test_one_more_node_that_is_late_costs_its_place_in_a_dictionary_for_each_path() -> None:
    """Behind a writer faster than all replicas each lacks what the others lack: the entries are kept once for all."""
    bench = Bench({b"first": OLD})
    roots = [bench.truth]
    late: list[Analysis | None] = [None, None, None]
    for step in range(1, 21):
        bench.move({b"first": OLD} | {b"%04d" % number: NEW for number in range(step * 100)})
        roots.append(bench.truth)
        for node, at in enumerate((0, 1, 2)):
            root = roots[min(at, step)]
            late[node], _ = bench.judge.analyse(
                bench.history, Stand(root, bench.truth, root, ()), late[node], replays=True
            )
    first, *others = [found for found in late if found is not None]
    assert [len(found.lagging) for found in (first, *others)] == [2000, 1900, 1800]
    for found in others:
        own = [values for key, values in found.raw.items() if values is not first.raw[key]]
        taken = sum(map(sys.getsizeof, (found.raw, found.lagging, *own)))
        assert taken / len(found.raw) < 80, "a tuple or a set's place of its own for each path"


def test_lag_needs_no_history() -> None:
    found = Bench({b"a": NEW}).look({b"a": OLD}, {b"a": OLD})
    assert (set(found.lagging), found.divergent) == ({b"a"}, 0)


def test_a_later_truth_that_is_not_the_latest_is_lag_and_moves_held() -> None:
    bench = Bench({b"a": OLD}, {b"a": NEW}, {b"a": LATER})
    found = bench.look({b"a": NEW}, {b"a": OLD})
    assert (set(found.lagging), bench.held(found)) == ({b"a"}, {b"a": NEW})
    back = bench.look({b"a": OLD}, bench.held(found))
    assert (set(back.regressed), back.divergent) == ({b"a"}, 1)


def test_where_the_site_copies_a_truth_that_came_twice_is_taken_for_the_first_of_them() -> None:
    bench = Bench({b"a": OLD}, {}, {b"a": NEW}, {b"a": LATER}, {}, {b"a": OTHER})
    gone = bench.look({}, {b"a": OLD}, replays=True)
    assert (set(gone.lagging), bench.held(gone)) == ({b"a"}, {})
    following = bench.look({b"a": NEW}, {}, replays=True)
    assert (set(following.lagging), following.divergent) == ({b"a"}, 0)
    writing = bench.look({b"a": NEW}, {})
    assert set(writing.regressed) == {b"a"}


def test_leaving_the_truth_for_an_older_one_is_a_regression() -> None:
    found = Bench({b"a": OLD}, {b"a": NEW}).look({b"a": OLD}, {b"a": NEW})
    assert (set(found.regressed), found.divergent, set(found.lagging)) == ({b"a"}, 1, set())


def test_what_the_truth_never_had_is_divergence() -> None:
    found = Bench({b"a": OLD}, {b"a": NEW}).look({b"a": OTHER, b"x": OTHER}, {b"a": OLD})
    assert (found.divergent, set(found.lagging), set(found.regressed)) == (2, set(), set())


def test_a_missing_file_that_the_truth_did_not_have_before_is_lag() -> None:
    bench = Bench({}, {b"a": NEW})
    assert set(bench.look({}, {}).lagging) == {b"a"}
    assert bench.look({}, {b"a": NEW}).divergent == 1


def test_only_paths_that_are_late_are_lag() -> None:
    found = Bench({b"a": OLD, b"b": OLD}, {b"a": NEW, b"b": OLD}).look(
        {b"a": OLD, b"b": OTHER}, {b"a": OLD, b"b": OLD}
    )
    assert (set(found.lagging), list(found.own_keys())) == ({b"a"}, [b"b"])


def test_a_joiner_has_lag_only() -> None:
    bench = Bench({b"a": OLD})
    found, _ = bench.judge.analyse(
        bench.history, Stand(bench.forest.plant({b"x": OTHER}), bench.truth, None, ())
    )
    assert (set(found.lagging), found.divergent, found.held) == ({b"a", b"x"}, 0, None)


def test_an_earlier_truth_that_a_converge_wrote_is_lag() -> None:
    """The truth moved on while the converge to the earlier one ran."""
    bench = Bench({b"a": OLD}, {b"a": NEW}, {b"a": LATER})
    first = bench.look({b"a": LATER}, {b"a": OLD})
    root = bench.forest.plant({b"a": NEW})
    by_itself, _ = bench.judge.analyse(bench.history, Stand(root, bench.truth, first.held, ()), first)
    assert set(by_itself.regressed) == {b"a"}
    by_us, _ = bench.judge.analyse(bench.history, Stand(root, bench.truth, first.held, (), True), first)
    bench.forest.objects.update(by_us.pages)
    assert (set(by_us.lagging), by_us.divergent, bench.held(by_us)) == ({b"a"}, 0, {b"a": NEW})


def test_withheld_bits_are_ignored_exactly() -> None:
    def tool(mode: int, digest: bytes = bytes(16)) -> bytes:
        return encode_entry(Entry(Kind.FILE, 5, digest, mode))

    bench = Bench({b"a": tool(0o4755)})
    truth = {b"a": tool(0o4755)}
    assert not bench.look({b"a": tool(0o755)}, truth, withheld=(b"a",)).differing
    assert bench.look({b"a": tool(0o755)}, truth).divergent == 1
    assert bench.look({b"a": tool(0o700)}, truth, withheld=(b"a",)).divergent == 1
    assert bench.look({b"a": tool(0o755, b"x" * 16)}, truth, withheld=(b"a",)).divergent == 1
    assert not same_but_special_bits((None, tool(0o755)), 16)


def test_nodes_that_stand_alike_share_an_analysis() -> None:
    bench = Bench({b"a": OLD})
    stand = Stand(bench.forest.plant({b"a": OTHER}), bench.truth, bench.truth, ())
    one, _ = bench.judge.analyse(bench.history, stand)
    assert bench.judge.analyse(bench.history, stand)[0] is one


files = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from([OLD, NEW, LATER, OTHER]))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), files), min_size=2, max_size=12))
def test_step_by_step_is_the_same_as_at_once(steps: list[tuple[bool, Files]]) -> None:
    bench = Bench({b"a": OLD})
    root, held, before = bench.truth, bench.truth, None
    for moves, state in steps:
        if moves:
            bench.move(state)
        else:
            root = bench.forest.plant(state)
        stand = Stand(root, bench.truth, held, ())
        after, touched = bench.judge.analyse(bench.history, stand, before)
        fresh, _ = Judge(Differ(bench.forest.tree), 16).analyse(bench.history, stand)
        bench.forest.objects.update({**after.pages, **fresh.pages})
        assert dict(after.differing) == dict(fresh.differing)
        assert (set(after.lagging), set(after.regressed)) == (set(fresh.lagging), set(fresh.regressed))
        assert after.held == fresh.held
        assert dict(after.behind) == dict(bench.differ.diff(after.held or b"", bench.truth))
        if before is not None and touched is not None:
            for key in {*before.differing, *after.differing} - set(touched):
                assert before.differing.get(key) == after.differing.get(key)
                assert before.is_own(key) == after.is_own(key)
        assert after.held is not None
        held, before = after.held, after


def test_what_the_truth_came_to_while_the_node_had_it_is_lag_from_then_on() -> None:
    """Also where the truth has gone on before anybody looked, to what the node had held before."""
    bench = Bench({b"a": OLD})
    first = bench.look({}, {b"a": OLD})
    assert first.divergent == 1
    bench.move({})
    bench.move({b"a": OLD})
    stand = Stand(first.root, bench.truth, first.held, ())
    late, touched = bench.judge.analyse(bench.history, stand, first, passed=Passed({b"a": None}))
    bench.forest.objects.update(late.pages)
    assert (set(late.lagging), late.divergent, bench.held(late)) == ({b"a"}, 0, {})
    assert touched == (b"a",)
    by_itself, _ = bench.judge.analyse(bench.history, stand, first)
    assert by_itself.divergent == 1  # and that one is nobody else's analysis


def test_who_catches_up_with_a_truth_that_goes_back_meanwhile_is_late() -> None:
    bench = Bench({b"a": OLD}, {b"a": NEW})
    before = bench.look({b"a": OLD}, {b"a": OLD})
    bench.move({b"a": OLD})
    stand = Stand(bench.forest.plant({b"a": NEW}), bench.truth, before.held, ())
    found, _ = bench.judge.analyse(bench.history, stand, before)
    assert (set(found.lagging), set(found.regressed)) == ({b"a"}, set())
    assert set(bench.look({b"a": NEW}, {b"a": OLD}).regressed) == {b"a"}  # it had not been behind


def test_a_truth_that_went_away_and_came_back_has_another_past_also_for_those_who_stand_as_somebody_stood() -> (
    None
):
    """Two nodes of one root: the first was judged before the truth had been what both have, the second after."""
    bench = Bench({b"a": OLD})
    strayed = bench.look({b"a": NEW}, {b"a": OLD})
    assert (strayed.divergent, set(strayed.regressed)) == (1, set())
    bench.move({b"a": NEW})
    bench.move({b"a": OLD})
    left = bench.look({b"a": NEW}, {b"a": OLD})
    assert set(left.regressed) == {b"a"}, "the truth had it, and left it"
    assert set(strayed.regressed) == set()


def test_within_one_round_what_stood_alike_before_the_truth_went_and_came_is_judged_anew() -> None:
    bench = Bench({b"a": OLD})
    before = bench.look({b"a": OLD}, {b"a": OLD})
    stand = Stand(bench.forest.plant({b"a": NEW}), bench.truth, bench.forest.plant({b"a": OLD}), ())
    bench.judge.begin_round()
    first, _ = bench.judge.analyse(bench.history, stand, before)
    bench.move({b"a": NEW})
    bench.move({b"a": OLD})
    second, _ = bench.judge.analyse(bench.history, stand, before)
    assert (set(first.regressed), set(second.regressed)) == (set(), {b"a"})


def test_the_elder_of_two_values_that_are_alike_is_told_apart_by_what_was_between() -> None:
    """It had held the first absence, and was elsewhere when the second came: seed 5011."""
    bench = Bench({b"a": OLD}, {})
    strayed = bench.look({b"a": OTHER}, {}, replays=True)
    for truth in ({b"a": NEW}, {b"a": LATER}, {}):
        bench.move(truth)
    stand = Stand(bench.forest.plant({b"a": OTHER}), bench.truth, strayed.held, ())
    passed = Passed(returned={b"a": NEW})
    found, touched = bench.judge.analyse(bench.history, stand, strayed, replays=True, passed=passed)
    bench.forest.objects.update(found.pages)
    held = bench.held(found)
    assert (touched, found.divergent, held) == ((b"a",), 1, {b"a": NEW})
    for late in (NEW, LATER):
        assert set(bench.look({b"a": late}, held, replays=True).lagging) == {b"a"}
    assert set(bench.look({b"a": OLD}, held, replays=True).regressed) == {b"a"}
    assert bench.held(bench.look({}, held, replays=True)) == {}
    assert set(bench.look({b"a": NEW}, {}, replays=True).regressed) == {b"a"}
    at_once = Stand(bench.forest.plant({b"a": NEW}), bench.truth, strayed.held, ())
    came, _ = bench.judge.analyse(bench.history, at_once, strayed, replays=True, passed=passed)
    assert (set(came.lagging), came.divergent) == ({b"a"}, 0)


def test_what_the_truth_passed_by_is_held_also_beside_what_is_the_nodes_own() -> None:
    """Its own file keeps the root from being what it has held: the path alone moves on."""
    bench = Bench({b"a": OLD})
    first = bench.look({b"b": OTHER}, {b"a": OLD})
    for truth in ({}, {b"a": OLD}):
        bench.move(truth)
    stand = Stand(first.root, bench.truth, first.held, ())
    found, _ = bench.judge.analyse(bench.history, stand, first, passed=Passed({b"a": None}))
    bench.forest.objects.update(found.pages)
    assert (set(found.lagging), found.divergent, bench.held(found)) == ({b"a"}, 1, {})


def test_one_path_is_met_while_the_node_catches_up_in_another() -> None:
    bench = Bench({b"a": OLD, b"b": OLD}, {b"a": OLD, b"b": NEW})
    first = bench.look({b"a": OTHER, b"b": OLD}, {b"a": OLD, b"b": OLD})
    assert (set(first.lagging), first.divergent) == ({b"b"}, 1)
    for truth in ({b"a": OTHER, b"b": NEW}, {b"a": OLD, b"b": OLD}):
        bench.move(truth)
    stand = Stand(bench.forest.plant({b"a": OTHER, b"b": NEW}), bench.truth, first.held, ())
    found, _ = bench.judge.analyse(bench.history, stand, first, passed=Passed({b"a": OTHER}))
    assert (set(found.lagging), found.divergent) == ({b"a", b"b"}, 0)


def test_who_stands_as_another_does_but_met_the_truth_on_its_way_is_not_taken_for_it() -> None:
    bench = Bench({b"a": OLD})
    first = bench.look({}, {b"a": OLD})
    for truth in ({}, {b"a": OLD}):
        bench.move(truth)
    stand = Stand(first.root, bench.truth, first.held, ())
    another, _ = bench.judge.analyse(bench.history, stand)
    assert set(another.regressed) == {b"a"}
    found, _ = bench.judge.analyse(bench.history, stand, first, passed=Passed({b"a": None}))
    assert (set(found.lagging), found.divergent) == ({b"a"}, 0)


def test_own_is_what_differs_and_is_not_late() -> None:
    """Asked of paths that a step touched: of those that are the truth's by now, too."""
    bench = Bench({b"a": OLD, b"b": OLD, b"c": OLD}, {b"a": NEW, b"b": OLD, b"c": OLD})
    files = {b"a": OLD, b"b": OLD, b"c": OTHER}
    found = bench.look(files, {b"a": OLD, b"b": OLD, b"c": OLD})
    assert [found.is_own(key) for key in (b"a", b"b", b"c")] == [False, False, True]
    assert list(found.own_keys()) == [b"c"]
