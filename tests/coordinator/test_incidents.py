"""The record of an incident: its words, its bounds, its way through the store."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable

import msgspec
import pytest

from closeranks_coordinator.core import incidents, words
from closeranks_coordinator.core.diffs import DiffRow
from closeranks_coordinator.core.incident_record import EVENT_NAMES, HEAD_EVENTS, RANGES_MAX, ROOTS_MAX
from closeranks_coordinator.core.incidents import Incident
from closeranks_proto.digests import BLAKE3, XXH3_128, DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import INCIDENT_MAX_PATHS, INCIDENT_MAX_TIMELINE
from closeranks_proto.paths import unescape

NOW = 1_700_000_000_000
HOSTILE = [
    b"new\nline",
    b"\xff\xfe",
    b"esc\x1b[31m",
    b"<script>alert(1)</script>",
    b"`rm` *x* [l](u)",
    b"%s{0}{node}",
]


def rows(count: int, size: int = 10) -> list[DiffRow]:
    return [
        DiffRow(b"a\0%06d" % number, "modified", ("content",), ((0, 0),), size) for number in range(count)
    ]


def accuse(
    rows: list[DiffRow] | None = None,
    *,
    kind: str = "divergence",
    on_divergence: str = "resync",
    path_count: int | None = None,
    evidence: incidents.Evidence | None = None,
) -> Incident:
    rows = (
        [DiffRow(b"photos\0cat.jpg", "modified", ("content",), ((0, 1),), 41_000_000_000)]
        if rows is None
        else rows
    )
    make = incidents.regression if kind == "regression" else incidents.divergence
    return make(
        id="inc-7", node="node-07", volume="photos", now_ms=NOW, first_seen_ms=NOW - 2100, rows=rows,
        path_count=len(rows) if path_count is None else path_count, bytes=sum(row.bytes for row in rows),
        on_divergence=on_divergence, evidence=evidence or {"coverage": "13/16 compared"},
    )  # fmt: skip


def unclear(voted: int = 16) -> Incident:
    return incidents.undetermined(
        id="inc-8", volume="photos", now_ms=NOW, first_seen_ms=NOW - 3000, rows=rows(2), path_count=2, voted=voted,
        assigned=16, need=9,
    )  # fmt: skip


def silent() -> Incident:
    return incidents.outage(
        id="inc-9",
        node="node-03",
        heard_ms=NOW - 45_000,
        gone_ms=NOW - 30_000,
        now_ms=NOW,
        volumes=["docs", "photos"],
    )


def many() -> Incident:
    return incidents.many_suspects(
        id="inc-1", volume=None, now_ms=NOW, nodes=["node-01", "node-02", "node-03"], max_quarantined=1
    )


def twice() -> Incident:
    return incidents.duplicate_node(id="inc-2", node="node-05", now_ms=NOW, detail="from 10.0.0.9:1\x1b[2J")


# --- words ----------------------------------------------------------------------------------------


def test_a_divergence_names_node_paths_and_bytes() -> None:
    assert accuse().summary == (
        "node-07 holds what the truth never had in 1 path of volume photos, 41 GB: photos/cat.jpg"
    )


def test_a_summary_names_three_paths_and_counts_the_rest() -> None:
    summary = accuse(rows(5), path_count=1234).summary
    assert "1,234 paths" in summary
    assert summary.endswith("a/000000, a/000001, a/000002 and 1,231 more")


def test_a_regression_says_that_the_node_went_back() -> None:
    incident = accuse(kind="regression")
    assert incident.kind == "regression"
    assert "went back to older" in incident.summary
    assert "backup" in incident.advice


def test_the_timeline_begins_when_it_was_seen_and_when_the_node_was_named() -> None:
    detected, named = accuse().timeline
    assert (detected.event, detected.at_ms) == ("detected", NOW - 2100)
    assert (named.event, named.at_ms) == ("named", NOW)
    assert "2.1 s" in named.text
    assert "13/16 compared" in named.text


@pytest.mark.parametrize(
    ("on_divergence", "commands"),
    [
        ("alert", ["closeranks diff photos node-07", "closeranks resync node-07"]),
        (
            "quarantine",
            ["closeranks diff photos node-07", "closeranks resync node-07", "closeranks release node-07"],
        ),
        ("resync", ["closeranks diff photos node-07", "closeranks release node-07"]),
    ],
)
@pytest.mark.parametrize("kind", ["divergence", "regression"])
def test_advice_names_the_commands_of_the_policy(kind: str, on_divergence: str, commands: list[str]) -> None:
    advice = accuse(kind=kind, on_divergence=on_divergence).advice
    for command in [*commands, "closeranks trash list node-07 --incident inc-7"]:
        assert f"`{command}`" in advice


def test_an_outage_names_node_volumes_and_since_when() -> None:
    incident = silent()
    assert (incident.node, incident.volume) == ("node-03", None)
    assert "node-03 has been silent since 2023-11-14 22:12:35 UTC" in incident.summary, (
        "a duration would stand still"
    )
    assert "docs and photos" in incident.summary
    assert "`closeranks nodes node-03`" in incident.advice


def test_an_outage_tells_what_was_heard_last_and_when_the_connection_ended() -> None:
    told = [(one.event, one.at_ms) for one in silent().timeline]
    assert told == [("detected", NOW - 45_000), ("note", NOW - 30_000), ("named", NOW)]
    assert "after 45 s of silence" in silent().timeline[-1].text


def test_a_divergence_of_missing_paths_says_that_they_lack() -> None:
    def summary(missing: int) -> str:
        incident = accuse(rows(4), path_count=4)
        incident.missing = missing
        incident.observe_paths(rows(4), 4)
        return incident.summary

    assert summary(0).startswith("node-07 holds what the truth never had in 4 paths")
    assert summary(4).startswith("node-07 lacks what the truth has in 4 paths")
    assert summary(1).startswith("node-07 holds what the truth never had, or lacks what it has, in 4 paths")


def test_undetermined_accuses_nobody() -> None:
    incident = unclear()
    assert (incident.node, incident.volume, incident.path_count) == (None, "photos", 2)
    assert "nobody is accused" in incident.advice
    assert "`closeranks diff photos NODE --against NODE`" in incident.advice
    assert "16 of 16 nodes were compared; 9 must" in incident.advice


def test_undetermined_for_want_of_voters_says_to_bring_nodes_back() -> None:
    advice = unclear(voted=7).advice
    assert "Only 7 of 16 nodes can be compared" in advice
    assert "`closeranks status`" in advice


def test_many_suspects_names_them_and_says_that_none_is_fenced() -> None:
    incident = many()
    assert "node-01, node-02 and node-03" in incident.summary
    assert "Nothing is fenced automatically" in incident.summary
    assert "`closeranks quarantine node-01 --reason TEXT`" in incident.advice


def test_a_duplicate_node_says_which_machine_to_mend() -> None:
    incident = twice()
    assert "node-05" in incident.summary
    assert "10.0.0.9" in incident.summary
    assert "state_dir" in incident.advice


@pytest.mark.parametrize("make", [accuse, unclear, silent, many, twice])
def test_every_text_is_one_printable_line_without_an_empty_place(make: Callable[[], Incident]) -> None:
    incident = make()
    texts = [incident.summary, incident.advice, *(one.text for one in incident.timeline)]
    assert all(text.isprintable() and text.strip() for text in texts)
    assert not any(word in text for text in texts for word in ("None", "  ", "{", ".."))


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_name_stays_on_its_line_everywhere(path: bytes) -> None:
    incident = accuse([DiffRow(path, "added", ("presence",), (), 1)])
    incident.recur(NOW + 1, [path])
    view = incident.view()
    assert view.summary.isprintable()
    assert all(event.text.isprintable() for event in view.timeline)
    assert unescape(view.paths[0].path) == path
    assert b64decode(view.paths[0].path_b64) == path


def test_a_path_of_4095_bytes_does_not_fill_the_summary() -> None:
    incident = accuse([DiffRow(b"\0".join([b"d" * 250] * 16), "added")])
    assert len(incident.summary) < 400


def test_a_name_with_a_comma_is_quoted_in_a_list() -> None:
    assert words.path_list([b"a, b", b"c"], 2) == '"a, b" and c'


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_140_000_000, "4.1 GB"), (41_000_000_000, "41 GB"),
     (9_960_000, "10 MB"), (999_900, "1.0 MB"), (10**24, "1000000 EB")],
)  # fmt: skip
def test_bytes_in_words(count: int, text: str) -> None:
    assert words.human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (2.14, "2.1 s"), (9.97, "10 s"), (119, "119 s"), (720, "12 min"), (3599, "1 h 00 min"),
     (11_100, "3 h 05 min"), (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_in_words(seconds: float, text: str) -> None:
    assert words.human_duration(seconds) == text


@pytest.mark.parametrize(
    ("names", "total", "text"),
    [([], None, "none"), (["a"], None, "a"), (["a", "b", "c"], None, "a, b and c"),
     (["a", "b", "c", "d"], None, "a, b, c and 1 more"), (["a"], 7, "a and 6 more"), ([], 7, "7 more")],
)  # fmt: skip
def test_lists_in_words(names: list[str], total: int | None, text: str) -> None:
    assert words.join(names, 3, total) == text


# --- evidence -------------------------------------------------------------------------------------


def evidence(algorithm: DigestAlgorithm = XXH3_128, samples: int = 1) -> incidents.Evidence:
    ours = encode_entry(Entry(Kind.FILE, 3, algorithm.of(b"one"), 0o600))
    return incidents.evidence(
        compared=13, assigned=16, voters=["node-01", "node-02"], need=9, decided_by="quorum: 13 of 16",
        node_root=b"\x01" * 16, truth_root=None, algorithm=algorithm, lasted_s=31.0,
        samples=[(b"a\0%d" % number, ours, None) for number in range(samples)],
    )  # fmt: skip


def test_evidence_tells_coverage_voters_roots_and_quorum() -> None:
    found = evidence()
    assert found["coverage"] == "13/16 compared"
    assert (found["need"], found["voters"]) == (9, ["node-01", "node-02"])
    assert (found["node_root"], found["truth_root"]) == ("01" * 16, "none")
    assert (found["lasted"], found["decided_by"]) == ("31 s", "quorum: 13 of 16")


def test_evidence_shows_both_entries_of_a_path() -> None:
    assert evidence()["entries"] == [
        f"a/0: the node has file, 3 bytes, xxh3-128 {XXH3_128.of(b'one').hex()}, mode 0600; the truth has nothing there"
    ]


def test_evidence_says_what_its_digest_proves() -> None:
    assert evidence()["digest_proves"] == "finds accidents; no evidence against tampering"
    assert "tamper-evident" in str(evidence(BLAKE3)["digest_proves"])


def test_evidence_shows_a_bounded_sample() -> None:
    entries = evidence(samples=2000)["entries"]
    assert isinstance(entries, list)
    assert len(entries) == incidents.SAMPLES_MAX


def test_a_hostile_symlink_target_stays_on_its_line() -> None:
    text = words.entry_words(Entry(Kind.SYMLINK, 4, target=b"a\n\x1bb"), "xxh3-128")
    assert text == "symlink to a\\n\\x1bb"


# --- bounds ---------------------------------------------------------------------------------------


def test_of_2000_paths_the_first_1000_are_kept_and_all_are_counted() -> None:
    incident = accuse(rows(2000))
    assert (len(incident.paths), incident.path_count) == (INCIDENT_MAX_PATHS, 2000)
    assert next(iter(incident.paths)) == b"a\x00000000"


def test_an_endless_source_of_rows_is_read_no_further_than_needed() -> None:
    source = iter(rows(5000))
    accuse([]).observe_paths(source, 5000)
    assert next(source).key == b"a\0%06d" % INCIDENT_MAX_PATHS


def test_observing_again_takes_the_newest_change_and_keeps_the_count() -> None:
    incident = accuse(rows(1))
    incident.recur(NOW, [b"a\x00000000"])
    incident.observe_paths([DiffRow(b"a\x00000000", "missing", ("presence",))], 1)
    path = incident.paths[b"a\x00000000"]
    assert (path.change, path.aspects, path.chunks, path.count) == ("missing", ("presence",), (), 2)


def test_each_path_tells_the_bytes_that_differ_in_it() -> None:
    """The API said 0 of every path, whatever differed."""
    incident = accuse(rows(2))
    incident.observe_paths([DiffRow(b"a\x00000001", "modified", ("content",), ((0, 3),), 25)], 2)
    assert [path.bytes for path in Incident.decode(incident.encode()).view().paths] == [10, 25]


def test_a_healed_path_does_not_shrink_what_was_seen() -> None:
    incident = accuse(rows(5))
    incident.observe_paths(rows(1), 1)
    assert (incident.path_count, incident.differing_bytes) == (5, 50)


def test_the_summary_follows_new_paths() -> None:
    incident = accuse(rows(1))
    incident.observe_paths(rows(4), 4)
    assert "4 paths of volume photos, 40 B" in incident.summary


def test_a_file_with_very_many_ranges_keeps_the_first() -> None:
    ranges = tuple((2 * number, 2 * number) for number in range(10_000))
    incident = accuse([DiffRow(b"big", "modified", ("content",), ranges, 1)])
    assert incident.paths[b"big"].chunks == ranges[:RANGES_MAX]


def test_a_long_timeline_keeps_its_beginning_and_its_end() -> None:
    incident = accuse()
    for number in range(2000):
        incident.note(NOW + number, "note", f"number {number}")
    texts = [event.text for event in incident.timeline]
    assert len(texts) == INCIDENT_MAX_TIMELINE
    assert texts[HEAD_EVENTS - 1] == f"number {HEAD_EVENTS - 3}"
    assert texts[-1] == "number 1999"
    assert texts[HEAD_EVENTS + 1] == f"number {2000 - (INCIDENT_MAX_TIMELINE - HEAD_EVENTS - 1)}"


def test_what_a_timeline_leaves_out_is_counted_by_one_note() -> None:
    incident = accuse()
    for number in range(2000):
        incident.note(NOW + number, "held", f"number {number}")
    notes = [event for event in incident.timeline if event.event == "note"]
    assert len(notes) == 1
    left_out = 2002 - (INCIDENT_MAX_TIMELINE - 1)
    assert incident.left_out == left_out
    assert f"{left_out:,} events" in notes[0].text


def test_a_timeline_that_is_just_full_leaves_nothing_out() -> None:
    incident = accuse()
    while len(incident.timeline) < INCIDENT_MAX_TIMELINE:
        incident.note(NOW, "held", "x")
    assert not any("left out" in event.text for event in incident.timeline)


def test_a_timeline_stays_in_order_of_time() -> None:
    incident = accuse()
    for number in range(1000):
        incident.note(NOW + number, "held", "x")
    times = [event.at_ms for event in incident.timeline]
    assert times == sorted(times)


def test_ten_thousand_recurrences_stay_small_and_are_all_counted() -> None:
    incident = accuse(rows(2))
    for number in range(10_000):
        incident.recur(NOW + number * 200, [b"a\x00000000"])
    assert incident.recurrences == 10_000
    assert incident.paths[b"a\x00000000"].count == 10_001
    assert len(incident.timeline) <= INCIDENT_MAX_TIMELINE
    assert len(incident.encode()) < 100_000


def test_an_event_outside_the_promised_names_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        accuse().note(NOW, "exploded", "x")


def test_event_names_are_those_of_the_rules() -> None:
    assert " ".join(EVENT_NAMES) == (
        "detected named fenced resync_started resynced verified released recurrence held note"
    )


def test_a_note_of_a_stranger_is_one_bounded_line() -> None:
    incident = accuse()
    incident.note(NOW, "note", "hook\nsaid \x1b[31m" + "x" * 100_000)
    assert incident.timeline[-1].text.isprintable()
    assert len(incident.timeline[-1].text) <= words.TEXT_WIDTH


def test_roots_to_keep_are_bounded_and_hold_the_first_and_the_newest() -> None:
    incident = accuse()
    for number in range(1000):
        incident.keep(number.to_bytes(16, "big"))
        incident.keep(number.to_bytes(16, "big"))
    assert len(incident.roots) == ROOTS_MAX
    assert incident.roots[0] == bytes(16)
    assert incident.roots[-1] == (999).to_bytes(16, "big")


# --- recurrences ----------------------------------------------------------------------------------


def test_returns_of_the_same_paths_within_five_seconds_are_one_event() -> None:
    incident = accuse(rows(1))
    incident.recur(NOW, [b"a\x00000000"])
    incident.recur(NOW + 4999, [b"a\x00000000"])
    events = [event for event in incident.timeline if event.event == "recurrence"]
    assert len(events) == 1
    assert "a/000000 (seen 3 times)" in events[0].text
    assert "2 returns so far" in events[0].text


def test_a_return_five_seconds_later_is_an_event_of_its_own() -> None:
    incident = accuse(rows(1))
    incident.recur(NOW, [b"a\x00000000"])
    incident.recur(NOW + 5000, [b"a\x00000000"])
    assert [event.event for event in incident.timeline].count("recurrence") == 2


def test_a_return_of_other_paths_is_an_event_of_its_own() -> None:
    incident = accuse(rows(2))
    incident.recur(NOW, [b"a\x00000000"])
    incident.recur(NOW + 1, [b"a\x00000001"])
    assert [event.event for event in incident.timeline].count("recurrence") == 2


def test_a_return_after_another_event_is_told_behind_it() -> None:
    incident = accuse(rows(1))
    incident.recur(NOW, [b"a\x00000000"])
    incident.note(NOW + 1, "resynced", "done")
    incident.recur(NOW + 2, [b"a\x00000000"])
    assert [event.event for event in incident.timeline][-3:] == ["recurrence", "resynced", "recurrence"]


def test_many_paths_that_return_at_once_are_one_event_with_the_first_named() -> None:
    incident = accuse(rows(50))
    incident.recur(NOW, [row.key for row in rows(50)])
    assert incident.timeline[-1].text.startswith(
        "a/000000 (seen twice), a/000001 (seen twice), a/000002 (seen twice) and 47 more come back"
    )
    assert incident.recurrences == 50


def test_a_return_of_a_path_that_was_not_kept_is_still_counted() -> None:
    incident = accuse(rows(2000))
    incident.recur(NOW, [b"z"])
    assert incident.recurrences == 1
    assert b"z" not in incident.paths


def test_no_paths_are_no_recurrence() -> None:
    incident = accuse()
    incident.recur(NOW, [])
    assert (incident.recurrences, len(incident.timeline)) == (0, 2)


# --- kept and shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [accuse, unclear, silent, many, twice])
def test_a_record_survives_the_store(make: Callable[[], Incident]) -> None:
    incident = make()
    incident.recur(NOW + 5, [b"\xff\0\n"])
    incident.keep(b"\x07" * 16)
    incident.close(NOW + 9)
    assert Incident.decode(incident.encode()) == incident


def test_a_full_record_survives_the_store_and_goes_on() -> None:
    incident = accuse(rows(2000), evidence=evidence())
    for number in range(1000):
        incident.note(NOW + number, "held", "x")
    again = Incident.decode(incident.encode())
    again.note(NOW + 2000, "held", "y")
    incident.note(NOW + 2000, "held", "y")
    assert again == incident


@pytest.mark.parametrize(
    "blob", [b"", b"junk", msgspec.msgpack.encode({"id": "x"}), msgspec.msgpack.encode([1])]
)
def test_a_record_that_is_none_is_refused(blob: bytes) -> None:
    with pytest.raises(CodecError, match="incident"):
        Incident.decode(blob)


def test_two_incidents_share_nothing() -> None:
    one, other = silent(), silent()
    one.keep(b"r")
    one.note(NOW, "note", "x")
    one.evidence["x"] = 1
    assert (other.roots, len(other.timeline), other.evidence) == ([], 3, {})


def test_closing_twice_keeps_the_first_time() -> None:
    incident = accuse()
    assert incident.is_open
    incident.close(NOW + 1)
    incident.close(NOW + 2)
    assert (incident.is_open, incident.closed_ms) == (False, NOW + 1)


def test_a_view_is_what_the_api_promises() -> None:
    incident = accuse()
    incident.bytes_moved, incident.files_trashed = 5, 2
    incident.close(NOW + 1500)
    view = msgspec.to_builtins(incident.view())
    assert (view["state"], view["opened_at"]) == ("closed", "2023-11-14T22:13:20.000Z")
    assert view["closed_at"] == "2023-11-14T22:13:21.500Z"
    assert (view["bytes_moved"], view["files_trashed"], view["path_count"]) == (5, 2, 1)
    assert view["timeline"][0] == {
        "at": "2023-11-14T22:13:17.900Z",
        "event": "detected",
        "text": "node-07 differs from the truth of volume photos: photos/cat.jpg.",
    }
    assert [(one["path"], one["change"], one["count"]) for one in view["paths"]] == [
        ("photos/cat.jpg", "modified", 1)
    ]


def test_the_view_of_an_open_incident_has_no_end() -> None:
    view = accuse().view()
    assert (view.state, view.closed_at) == ("open", None)


def test_a_closed_incident_looks_back() -> None:
    incident = accuse()
    assert "closeranks diff" in incident.view().advice
    incident.files_trashed = 3
    incident.close(incident.opened_ms + 1000)
    advice = incident.view().advice
    assert advice.startswith("This is over.")
    assert f"`closeranks trash list {incident.node} --incident {incident.id}`" in advice


def test_the_size_of_more_paths_than_are_kept_is_a_least_one() -> None:
    """The bytes of what is beyond the kept paths were not added up."""
    assert "in 1,000 paths of volume photos, 10 kB: " in accuse(rows(1000)).summary
    cut = accuse(rows(1000), path_count=5000)
    assert "in 5,000 paths of volume photos, at least 10 kB: " in cut.summary


def test_returns_that_fill_the_memory_are_told_as_a_least_figure() -> None:
    def back(count: int) -> Incident:
        incident = incidents.recurrence(
            id="i-1", node="n1", volume="photos", now_ms=NOW, first_ms=NOW, repaired_in="i-0"
        )
        incident.observe_paths(rows(count), 0)
        incident.recur(NOW, [row.key for row in rows(count)])
        return incident

    full = back(INCIDENT_MAX_PATHS)
    assert "came back in at least 1,000 paths of volume photos, at least 1,000 returns so far" in full.summary
    assert "at least 1,000 returns so far" in full.timeline[-1].text
    assert "least" not in back(999).summary + back(999).timeline[-1].text
