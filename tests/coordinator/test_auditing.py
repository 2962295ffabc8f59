"""Audits: who is asked for what, what the answers prove, who is accused and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from closeranks_coordinator.core import recurrence
from closeranks_coordinator.core.auditing import UNPROVEN_MAX
from closeranks_coordinator.core.model import QuarantineAsked, RejectAsked, ReleaseAsked, ResyncAsked
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.web.report import as_markdown
from closeranks_proto import messages as wire
from closeranks_proto.audits import seeded_digest
from closeranks_proto.content import ChunkList, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.limits import AUDIT_ANSWER_MAX_S
from fakeworld import FakeWorld, file_of
from fakeworld.world import SOME_FILES, key_of, volume_config

NAMES = ("node-01", "node-02", "node-03")
MANY = {key_of(f"files/{number:03}"): file_of(number) for number in range(40)}
ONE = {key_of("only.bin"): file_of("only")}


def fleet(
    on_divergence: str = "alert",
    files: dict[bytes, bytes] | None = None,
    names: tuple[str, ...] = NAMES,
    config: dict[str, object] | None = None,
    **changes: object,
) -> FakeWorld:
    volume = volume_config(on_divergence=on_divergence, audit_interval_s=1.0, **changes)
    files = SOME_FILES if files is None else files
    return FakeWorld(names, [volume], {"photos": files}, **(config or {})).started()


def audits(world: FakeWorld, node: str) -> list[wire.Audit]:
    return [one for one in world.sent(node, wire.Audit) if isinstance(one, wire.Audit)]


def results(world: FakeWorld) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in world.observed:
        if one.metric == "closeranks_audits_total":
            result = dict(one.labels)["result"]
            found[result] = found.get(result, 0.0) + one.value
    return found


def no_proof(why: str) -> Callable[[wire.Audit], wire.AuditAnswer]:
    return lambda audit: wire.AuditAnswer(audit.volume, audit.audit, None, why, "")  # type: ignore[arg-type]


# --- asking ---------------------------------------------------------------------------------------


def test_every_holder_is_asked_for_the_same_chunk_with_the_same_seed_and_proves_it() -> None:
    world = fleet()
    world.run(30)
    assert audits(world, "node-01") == audits(world, "node-02") == audits(world, "node-03")
    asked = audits(world, "node-01")
    assert len(asked) >= 20
    assert {one.key for one in asked} == set(SOME_FILES), "any file may be drawn"
    assert len({one.seed for one in asked}) == len(asked), "no seed comes twice"
    assert results(world) == {"proven": 3.0 * len(asked)}
    assert all(world.volume(name).last_audit is not None for name in NAMES)
    assert world.incidents() == []


def test_without_an_interval_nobody_is_asked() -> None:
    world = FakeWorld(NAMES).started()
    world.run(30)
    assert audits(world, "node-01") == []


def test_a_node_that_differs_or_is_fenced_or_has_a_problem_is_not_asked() -> None:
    world = fleet(files=ONE)
    world["node-03"].disk["photos"][key_of("only.bin")] = file_of("other")
    world.run(10)
    before = len(audits(world, "node-03"))
    world["node-02"].problem("photos", "io_error")
    world.run(1.5)
    others = len(audits(world, "node-02"))
    world.run(10)
    assert len(audits(world, "node-03")) == before
    assert len(audits(world, "node-02")) == others
    assert len(audits(world, "node-01")) > others


def test_a_chunk_of_a_long_file_is_named_by_its_digest_in_the_chunk_list() -> None:
    chunk_bytes = 4096
    digests = [XXH3_128.of(b"%d" % number) for number in range(5)]
    encoded = encode_chunk_list(ChunkList(5 * chunk_bytes - 7, chunk_bytes, 16, b"".join(digests)))
    long = encode_entry(Entry(Kind.FILE, 5 * chunk_bytes - 7, XXH3_128.of(encoded), 0o644))
    world = FakeWorld(
        NAMES,
        [volume_config(audit_interval_s=1.0, chunk_bytes=chunk_bytes)],
        {"photos": {key_of("long"): long}},
    )
    world.objects[XXH3_128.of(encoded)] = encoded
    for agent in world.agents.values():
        agent.audits = lambda audit: wire.AuditAnswer(
            audit.volume, audit.audit, seeded_digest(XXH3_128, audit.seed, audit.digest), "", ""
        )
    world.started().run(40)
    asked = {(one.chunk, one.digest) for one in audits(world, "node-01")}
    assert asked == set(enumerate(digests))


def test_an_empty_file_is_no_proof_of_anything_and_not_asked_for() -> None:
    world = fleet(files={key_of("empty"): file_of("", size=0), key_of("full"): file_of("x")})
    world.run(30)
    assert {one.key for one in audits(world, "node-01")} == {key_of("full")}


# --- who is accused -------------------------------------------------------------------------------


def test_a_node_whose_disk_has_other_bytes_than_it_reports_is_asked_twice_and_named() -> None:
    world = fleet()
    world["node-02"].hides.add(key_of("c.txt"))
    world.until(lambda: bool(world.incidents("audit")))
    (incident,) = world.incidents("audit")
    assert (incident.node, incident.volume, incident.state) == ("node-02", "photos", "open")
    assert [(one.path, one.chunks) for one in incident.paths] == [("c.txt", ((0, 0),))]
    assert world.state("node-02") == "suspect"
    asked = [one for one in audits(world, "node-02") if one.key == key_of("c.txt")]
    assert len(asked) >= 2
    assert asked[-2].seed != asked[-1].seed
    assert {one.node for one in world.incidents()} == {"node-02"}
    assert "closeranks resync node-02" in incident.advice


def test_a_wrong_proof_that_is_right_the_second_time_accuses_nobody() -> None:
    world = fleet(files=ONE)
    agent, asked = world["node-02"], list[int]()

    def slip_once(audit: wire.Audit) -> wire.AuditAnswer:
        asked.append(audit.audit)
        honest = agent.proof(audit)
        return honest if len(asked) > 1 else wire.AuditAnswer(audit.volume, audit.audit, b"slip" * 4, "", "")

    agent.audits = slip_once
    world.run(20)
    assert len(asked) > 2
    assert world.incidents() == []
    assert results(world).get("refuted") is None


def test_liars_that_take_turns_are_both_named_and_the_audit_ends() -> None:
    """Each is right when the other is wrong: whoever was wrong twice is accused, whatever it proved in between."""
    world = fleet(files=ONE, names=(*NAMES, "node-04", "node-05"))

    def every_other(name: str, parity: int) -> Callable[[wire.Audit], wire.AuditAnswer]:
        def answer(audit: wire.Audit) -> wire.AuditAnswer:
            if audit.audit % 2 != parity:
                return world[name].proof(audit)
            lie = seeded_digest(XXH3_128, audit.seed, b"a lie")
            return wire.AuditAnswer(audit.volume, audit.audit, lie, "", "")

        return answer

    world.run(5)
    before = len(audits(world, "node-01"))
    world["node-02"].audits, world["node-03"].audits = every_other("node-02", 0), every_other("node-03", 1)
    world.run(10)
    assert {one.node for one in world.incidents("audit")} == {"node-02", "node-03"}
    assert len(audits(world, "node-01")) - before <= 5 * 10, "a chain has as many rounds as nodes at most"


@pytest.mark.parametrize("proof", [b"", b"short", b"x" * 17])
def test_what_can_not_be_a_digest_is_no_proof(proof: bytes) -> None:
    world = fleet(files=MANY)
    world["node-02"].audits = lambda audit: wire.AuditAnswer(audit.volume, audit.audit, proof, "", "")
    world.run(5)
    assert results(world)["unproven"] > 2
    assert world.incidents() == []
    world.until(lambda: bool(world.incidents("audit")), 120)
    assert [len(one.paths) for one in world.incidents("audit")] == [UNPROVEN_MAX]


def test_without_a_majority_nobody_is_accused() -> None:
    """Two of four say one thing, two another: somebody lies, and nobody can tell who."""
    names = (*NAMES, "node-04")
    world = FakeWorld(names, [volume_config(on_divergence="alert", audit_interval_s=1.0)], {"photos": ONE})
    for name in names[:2]:
        world[name].hides.add(key_of("only.bin"))
    world.started().run(20)
    assert results(world)["undetermined"] > 5
    assert results(world).get("refuted") is None
    assert world.incidents() == []
    assert world.states() == {"in_rank"}


def test_a_majority_is_one_of_all_nodes_also_of_those_that_are_away() -> None:
    world = fleet(files=ONE)
    world["node-03"].stop()
    world["node-02"].hides.add(key_of("only.bin"))
    world.run(20)
    assert world.incidents("audit") == []
    assert results(world)["undetermined"] > 3


@pytest.mark.parametrize("why", ["moved", "decayed", "failed"])
def test_who_claims_much_and_proves_nothing_is_named(why: str) -> None:
    world = fleet(files=MANY)
    world["node-02"].audits = no_proof(why)
    world.until(lambda: bool(world.incidents("audit")), 120)
    (incident,) = world.incidents("audit")
    assert incident.node == "node-02"
    assert len(incident.paths) == UNPROVEN_MAX
    assert world.state("node-02") == "suspect"
    assert {one.node for one in world.incidents()} == {"node-02"}


def test_who_does_not_answer_at_all_holds_nobody_up_and_is_named() -> None:
    world = fleet(files=MANY)
    world["node-02"].audits = lambda audit: None
    world.until(lambda: bool(world.incidents("audit")), (UNPROVEN_MAX + 10) * 2 * AUDIT_ANSWER_MAX_S)
    assert [one.node for one in world.incidents("audit")] == ["node-02"]
    assert results(world)["proven"] >= 2 * UNPROVEN_MAX


def test_one_proof_ends_the_count() -> None:
    world = fleet(files=MANY)
    agent, asked = world["node-02"], list[int]()

    def now_and_then(audit: wire.Audit) -> wire.AuditAnswer:
        asked.append(audit.audit)
        return agent.proof(audit) if len(asked) % UNPROVEN_MAX == 0 else no_proof("moved")(audit)

    agent.audits = now_and_then
    world.run(120)
    assert len(asked) > 5 * UNPROVEN_MAX
    assert world.incidents() == []


def test_a_path_that_had_changed_is_forgiven() -> None:
    """Whatever is asked for changes just then, everywhere: no proof, and nobody is to blame."""
    world = fleet(files=MANY, settle_s=0.2)
    for agent in world.agents.values():
        agent.audits = no_proof("moved")
    for number in range(60):
        for agent in world.agents.values():
            for key in MANY:
                agent.disk["photos"][key] = file_of(f"version {number} of {key!r}")
        world.run(2)
    assert results(world)["unproven"] > 3 * UNPROVEN_MAX
    assert world.incidents("audit") == []


# --- what becomes of it ---------------------------------------------------------------------------


def test_where_only_an_alert_is_wanted_a_proof_of_the_same_chunk_ends_it() -> None:
    world = fleet(files=MANY)
    world["node-02"].hides.add(key_of("files/007"))
    world.until(lambda: bool(world.incidents("audit")), 600)
    world.run(20)
    (incident,) = world.incidents("audit")
    assert incident.state == "open", "proofs of other chunks do not count"
    asked = [one.key == key_of("files/007") for one in audits(world, "node-02")[-16:]]
    assert asked.count(True) >= 8, "every other audit asks for it"
    world["node-02"].hides.clear()
    world.until_state("node-02", "in_rank")
    assert [one.state for one in world.incidents("audit")] == ["closed"]


def fail_and_prove(world: FakeWorld, key: bytes = key_of("only.bin")) -> None:
    """Wrong for one audit and its repetition, right from then on."""
    known = len(world.incidents("audit"))
    world["node-02"].hides.add(key)
    world.until(lambda: len(world.incidents("audit")) > known)
    world["node-02"].hides.clear()
    world.run(5)


def test_a_liar_that_is_wrong_now_and_then_is_told_of_each_time_and_in_the_end_waits_for_a_person() -> None:
    world = fleet(files=ONE, config={"recurrence_max": 2})
    fail_and_prove(world)
    assert [one.state for one in world.incidents("audit")] == ["closed"]
    assert world.incidents("recurrence") == []
    fail_and_prove(world)
    first, second = world.incidents("audit")
    (told,) = world.incidents("recurrence")
    assert (told.node, told.volume, told.recurrences, told.state) == ("node-02", "photos", 1, "open")
    assert [first.id in one.text for one in told.timeline if one.event == "recurrence"] == [True]
    assert any(told.id in one.text for one in second.timeline)
    report = as_markdown(told, "xxh3-128", world.now().wall_ms)
    assert "node-02 fails audits again and again" in report
    assert "epair" not in report, "nothing was repaired"
    assert (second.state, world.state("node-02")) == ("closed", "in_rank"), "once is no habit"
    fail_and_prove(world)
    third = world.incidents("audit")[-1]
    assert (third.state, world.state("node-02")) == ("open", "suspect"), "its proof does not end it any more"
    assert "it failed audits again twice within 1 h 00 min" in str(third.evidence["release"])
    world.restart()
    world.run(10)
    assert world.state("node-02") == "suspect"
    world.ask(ReleaseAsked("node-02"))
    world.run(10)
    assert (world.incidents("audit")[-1].state, world.state("node-02")) == ("closed", "in_rank")


def test_what_a_liar_is_remembered_for_outlives_a_restart() -> None:
    world = fleet(files=ONE)
    fail_and_prove(world)
    world.run(recurrence.SAVE_EVERY_S + 1)
    world.restart()
    world.run(2)
    fail_and_prove(world)
    assert [one.recurrences for one in world.incidents("recurrence")] == [1]


def test_failures_far_apart_are_told_and_do_not_escalate() -> None:
    world = fleet(files=ONE, config={"recurrence_max": 2, "auto_release_window_s": 60.0})
    for _ in range(4):
        fail_and_prove(world)
        world.run(65)
    assert [one.state for one in world.incidents("audit")] == ["closed"] * 4
    assert [one.recurrences for one in world.incidents("recurrence")] == [3]


def test_a_node_that_is_in_rank_has_nothing_to_be_released_from() -> None:
    world = fleet(files=ONE)
    fail_and_prove(world)
    assert world.ask(ReleaseAsked("node-02")) == "409 not_quarantined"


def test_a_release_ends_no_suspicion_for_which_a_node_is_yet_to_be_fenced() -> None:
    """It has failed audits too often, and waits for a place behind the fence: nobody has brought it back."""
    names = (*NAMES, "node-04", "node-05")
    world = fleet("quarantine", files=ONE, names=names, config={"recurrence_max": 1, "max_quarantined": 1})
    world.ask(QuarantineAsked("node-04", "maintenance"))
    for _ in range(2):
        fail_and_prove(world)
    waiting = world.incidents("audit")[-1]
    assert "by hand" in str(waiting.evidence["release"])
    assert (waiting.state, world.state("node-02")) == ("open", "suspect")
    assert world.ask(ReleaseAsked("node-02")) == "409 not_quarantined"
    world.run(5)
    assert (world.incidents("audit")[-1].state, world.state("node-02")) == ("open", "suspect")
    world.ask(ReleaseAsked("node-04"))
    world.until_state("node-02", "quarantined")
    world.ask(ReleaseAsked("node-02"))
    assert world.incidents("audit")[-1].state == "closed"


def test_a_proof_of_any_path_ends_an_incident_of_a_node_that_gave_none() -> None:
    world = fleet(files=MANY)
    world["node-02"].audits = no_proof("failed")
    world.until(lambda: bool(world.incidents("audit")), 120)
    world["node-02"].audits = None
    before = len(audits(world, "node-02"))
    world.until_state("node-02", "in_rank")
    assert [one.state for one in world.incidents("audit")] == ["closed"]
    assert len(audits(world, "node-02")) <= before + 3, "it was asked for one of the paths that it is about"


def test_a_chunk_that_the_file_no_longer_has_keeps_no_incident_open() -> None:
    """The file shrank to one chunk: nobody can ask for the third again, and the next proof ends it."""
    chunks = encode_chunk_list(
        ChunkList(3 << 20, 1 << 20, 16, b"".join(XXH3_128.of(b"%d" % one) for one in range(3)))
    )
    digest = XXH3_128.of(chunks)
    long = encode_entry(Entry(Kind.FILE, 3 << 20, digest, 0o644))
    body = {key_of("long"): long, key_of("other"): file_of("other")}
    world = FakeWorld(
        NAMES, [volume_config(on_divergence="alert", settle_s=0.2, audit_interval_s=1.0)], {"photos": body}
    )
    world.objects[digest] = chunks

    def honest(audit: wire.Audit) -> wire.AuditAnswer:
        return wire.AuditAnswer(
            audit.volume, audit.audit, seeded_digest(XXH3_128, audit.seed, audit.digest), "", ""
        )

    def rotten(audit: wire.Audit) -> wire.AuditAnswer:
        good = honest(audit)
        return msgspec.structs.replace(good, proof=b"x" * 16) if audit.chunk == 2 else good

    for agent in world.agents.values():
        agent.audits = honest
    world["node-02"].audits = rotten
    world.started().until(lambda: bool(world.incidents("audit")), 600)
    world.run(20)
    assert [one.state for one in world.incidents("audit")] == ["open"]
    for agent in world.agents.values():
        agent.disk["photos"][key_of("long")] = file_of("short")
    world.until_state("node-02", "in_rank")
    assert [one.state for one in world.incidents("audit")] == ["closed"]


def test_an_open_incident_hides_nobody_else() -> None:
    """The one audit that a suspect fails for ever, and another node that lies about everything else."""
    world = fleet(files=MANY, names=(*NAMES, "node-04", "node-05"))
    world["node-02"].hides.add(key_of("files/007"))
    world.until(lambda: bool(world.incidents("audit")), 600)
    world["node-01"].hides.update(set(MANY) - {key_of("files/007")})
    world.until(lambda: len(world.incidents("audit")) == 2, 30)
    assert {one.node for one in world.incidents("audit", "open")} == {"node-01", "node-02"}
    before = len(audits(world, "node-01"))
    world.run(30)
    asked = [one.key for one in audits(world, "node-01")[before:]]
    for incident in world.incidents("audit"):
        assert asked.count(key_of(incident.paths[0].path)) >= 4, "suspects take turns"


def test_a_suspect_that_is_away_is_not_asked_for_again_and_again() -> None:
    world = fleet(files=MANY)
    world["node-02"].hides.add(key_of("files/007"))
    world.until(lambda: bool(world.incidents("audit")), 600)
    world["node-02"].stop()
    world.run(2)
    before = len(audits(world, "node-01"))
    world.run(60)
    asked = [one.key for one in audits(world, "node-01")[before:]]
    assert len(asked) > 20
    assert asked.count(key_of("files/007")) < len(asked) / 4, "only by chance"


def test_a_suspect_of_an_audit_stays_one_over_a_restart() -> None:
    world = fleet(files=ONE)
    world["node-02"].hides.add(key_of("only.bin"))
    world.until_state("node-02", "suspect")
    world.restart()
    world.run(5)
    assert world.state("node-02") == "suspect"
    world["node-02"].hides.clear()
    world.until_state("node-02", "in_rank")
    assert [one.state for one in world.incidents("audit")] == ["closed"]


@pytest.mark.parametrize("on_divergence", ["quarantine", "resync"])
def test_elsewhere_it_is_fenced_and_only_a_person_releases_it(on_divergence: str) -> None:
    world = fleet(on_divergence, ONE)
    world["node-02"].hides.add(key_of("only.bin"))
    world.until_state("node-02", "quarantined")
    quarantine = world.view("node-02").quarantine
    assert quarantine.release == "by_hand"
    (incident,) = world.incidents("audit")
    assert quarantine.incident == incident.id
    world.run(60)
    assert world.state("node-02") == "quarantined", "its own word does not release it"
    assert world.sent("node-02", wire.Verify) == []
    world.ask(ReleaseAsked("node-02"))
    world.until(lambda: bool(world.incidents("audit", "closed")))
    world.until_state("node-02", "quarantined")
    assert len(world.incidents("audit")) == 2, "it fails again"
    world["node-02"].hides.clear()
    world.ask(ReleaseAsked("node-02"))
    world.run(20)
    assert world.state("node-02") == "in_rank"
    assert world.incidents(state="open") == []


def test_a_resync_by_hand_verifies_and_leaves_the_release_to_a_person() -> None:
    world = fleet("alert", ONE)
    world["node-02"].hides.add(key_of("only.bin"))
    world.until_state("node-02", "suspect")
    world.ask(ResyncAsked("node-02", None, False))
    world.until(lambda: world.view("node-02").quarantine.verified)
    world.run(20)
    assert world.state("node-02") == "quarantined"
    assert world.view("node-02").quarantine.release == "by_hand"


def test_a_suspect_of_an_audit_is_not_released_for_the_repair_of_another_volume() -> None:
    names = ("node-01", "node-02", "node-03", "node-04")
    world = FakeWorld(
        names,
        [
            volume_config("photos", on_divergence="alert", audit_interval_s=1.0),
            volume_config("texts", on_divergence="resync"),
        ],
        {"photos": ONE, "texts": SOME_FILES},
    ).started()
    world["node-02"].hides.add(key_of("only.bin"))
    world.until_state("node-02", "suspect")
    world["node-02"].disk["texts"][key_of("stray")] = file_of("stray")
    world.until(lambda: world.view("node-02").quarantine is not None)
    assert world.view("node-02").quarantine.release == "by_hand"
    world.until(lambda: world.view("node-02").quarantine.verified)
    world.run(20)
    assert world.state("node-02") == "quarantined"
    assert key_of("stray") not in world["node-02"].disk["texts"], "it is repaired all the same"
    assert len(world.incidents("audit", "open")) == 1


def test_where_many_fail_at_once_nothing_is_fenced() -> None:
    names = tuple(f"node-{number:02}" for number in range(1, 8))
    volume = volume_config(on_divergence="quarantine", audit_interval_s=1.0)
    world = FakeWorld(names, [volume], {"photos": ONE})
    for name in names[:3]:
        world[name].hides.add(key_of("only.bin"))
    world.started().run(20)
    assert sorted(one.node for one in world.incidents("audit")) == list(names[:3])
    assert len(world.incidents("many_suspects")) == 1
    assert all(world.view(name).quarantine is None for name in names)


def test_with_writers_a_lying_replica_is_named_by_the_others() -> None:
    world = fleet("resync", ONE, policy="writers", writers=("node-01",))
    world["node-03"].hides.add(key_of("only.bin"))
    world.until_state("node-03", "quarantined")
    assert [one.node for one in world.incidents("audit")] == ["node-03"]


def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    world = fleet(files=ONE)
    agent = world["node-02"]

    def twice_and_wrong(audit: wire.Audit) -> wire.AuditAnswer:
        for number in (audit.audit - 1, audit.audit + 1):
            agent._say(wire.AuditAnswer(audit.volume, number, b"nonsense", "", ""))
        agent._say(wire.AuditAnswer("no such volume", audit.audit, b"nonsense", "", ""))
        return agent.proof(audit)

    agent.audits = twice_and_wrong
    world.run(10)
    assert world.incidents() == []
    assert set(results(world)) == {"proven"}


def test_audits_end_when_the_configuration_says_so_and_nobody_stays_suspect_for_want_of_one() -> None:
    world = fleet(files=ONE)
    world["node-02"].hides.add(key_of("only.bin"))
    world.until_state("node-02", "suspect")
    (volume,) = world.config.volumes
    world.configure(replace(world.config, volumes=(replace(volume, audit_interval_s=0.0),)))
    world.run(0.1)
    assert world.state("node-02") == "in_rank"
    before = len(audits(world, "node-01"))
    world.run(20)
    assert len(audits(world, "node-01")) == before
    world.configure(replace(world.config, volumes=(volume,)))
    world.until_state("node-02", "suspect")


def test_who_has_failed_an_audit_is_not_released_by_its_own_word_after_a_reject() -> None:
    """What a guard held is decided; that it proves other bytes than it claims is not."""
    world = fleet(files=ONE, guards=GuardRules(warm_up_s=0))
    agent = world["node-02"]
    agent.hides.add(key_of("only.bin"))
    world.until(lambda: bool(world.incidents("audit")))
    for step in range(4):
        disk = wire.DiskState("/srv", ("photos",), False, 10**11, (50 - step) * 10**9, 1e9, 50.0)
        agent._say(wire.Activity(1000, (), (disk,), ()))
        world.run(1)
    (hold,) = world.fleet.hold_ids()
    assert not isinstance(world.ask(RejectAsked(hold)), str)
    world.run(60)
    record = world.fleet._world.nodes["node-02"].record
    assert world.state("node-02") == "quarantined"
    assert record.fence is not None
    assert (record.fence.release, record.fence.verified) == ("by_hand", True)
    world.ask(ReleaseAsked("node-02"))
    assert world.state("node-02") == "in_rank"
