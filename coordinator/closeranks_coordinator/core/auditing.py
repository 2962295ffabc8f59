"""Audits: a random chunk, a random seed, and every holder must answer what its disk has of it now.

An index says what a node read once. What it says now may be stale, or made up. The coordinator has no contents to hold
answers against, so it holds them against each other: bytes that a strict majority of *all* the volume's nodes proves
are the right ones, whatever anybody's index says. Without such a majority nobody is accused.

- Half of the audits draw a file, half a byte of all bytes: many small files and few long ones both come up. While an
  incident is open every other audit asks for what it is about: nobody else is out of sight meanwhile.
- A proof that contradicts the majority is asked for once more, with another seed; twice, whatever others proved in
  between, is an incident of kind `audit`. The node is suspect, and is fenced where the volume's `on_divergence` says
  so, until a person releases it: its word is what is in doubt, so its own verification proves nothing. Where only an
  alert is wanted, a proof of what it failed ends the incident; who fails again and again waits for a person there too.
- A node that found its own disk to be wrong says so, has looked into it by then, and differs like any other.
- No proof is no pass. A node that gives none for UNPROVEN_MAX paths in a row, all of which it still claims to hold,
  is told of in the same way. A path that it no longer claims had changed, and is forgiven.

Rejected: contents at the coordinator to compare with; believing the digest that the index has for the chunk.
"""

from __future__ import annotations

import random
from collections import Counter

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.audits import SEED_BYTES
from closeranks_proto.content import chunk_count, decode_chunk_list
from closeranks_proto.entries import decode_entry, entry_size, is_file
from closeranks_proto.limits import AUDIT_ANSWER_MAX_S

from . import incidents, recurrence
from .incidents import Incident, IncidentPath
from .nodes import Audit, Node, Volume
from .truth import quorum_of
from .words import path_words
from .world import World

DRAWS = 4  # an empty file has nothing to prove: draw again
UNPROVEN_MAX = 10  # distinct paths in a row without a proof


def drive(world: World, rng: random.Random) -> None:
    """Begin what is due, end what is answered."""
    for volume in world.volumes.values():
        audits, interval_s, now = volume.audits, volume.config.audit_interval_s, world.now.mono
        if not interval_s:
            _end(world, volume)
            continue
        if audits.asked is not None:
            due = audits.asked.asked_at + AUDIT_ANSWER_MAX_S
            if now < due and not _is_complete(world, audits.asked):
                world.wake(due)
                continue
            _conclude(world, volume, audits.asked, rng)
        if audits.next_at is None or audits.ended:
            audits.ended = False
            audits.next_at = now + interval_s
        elif now >= audits.next_at and audits.asked is None:
            audits.next_at = now + interval_s
            _forgive(world, volume)
            _begin(world, volume, rng)
        if audits.asked is None:
            world.wake(audits.next_at)


def answered(world: World, node: Node, answer: wire.AuditAnswer) -> None:
    """A node's answer; one that is not awaited (any more) is passed over."""
    volume = world.volumes.get(answer.volume)
    asked = None if volume is None else volume.audits.asked
    if asked is None or asked.number != answer.audit or asked.sessions.get(node.name) != node.session:
        return
    if answer.proof is not None and len(answer.proof) != world.algorithm.width:
        answer = msgspec.structs.replace(answer, proof=None)  # no digest is that long: nothing was proven
    asked.answers.setdefault(node.name, answer)


def _end(world: World, volume: Volume) -> None:
    """Audits are switched off: nobody stays suspect for want of one."""
    if volume.audits.ended:
        return
    volume.audits.ended, volume.audits.asked, volume.audits.unproven = True, None, {}
    for node in world.members(volume):
        incident = world.open_incident("audit", node.name, volume.name)
        if incident is not None and not node.fenced:
            incident.note(world.now.wall_ms, "note", "Audits of this volume were switched off.")
            world.close(incident)


# --- asking ---------------------------------------------------------------------------------------


def _begin(world: World, volume: Volume, rng: random.Random) -> None:
    """Ask for a random chunk; every other time for one that an open incident is about, where there is one."""
    if volume.truth is None:
        return
    volume.audits.begun += 1
    turn, is_random = divmod(volume.audits.begun, 2)
    drawn = (None if is_random else _doubted(world, volume, turn)) or _draw(world, volume, volume.truth, rng)
    if drawn is not None:
        _ask(world, volume, *drawn, rng, ())


def _doubted(world: World, volume: Volume, turn: int) -> tuple[bytes, bytes, int] | None:
    """(key, value, chunk) that a suspect failed and claims to hold: a proof closes its incident. They take turns."""
    suspects = [
        (node, incident)
        for node in world.members(volume)
        if (incident := world.open_incident("audit", node.name, volume.name)) is not None
    ]
    first = turn % len(suspects) if suspects else 0
    for node, incident in (*suspects[first:], *suspects[:first]):
        for key, path in incident.paths.items():
            asked = _askable(world, volume, key, path)
            if asked is not None and _holds(world, volume, node, key, asked[0]):
                return key, *asked
    return None


def _askable(world: World, volume: Volume, key: bytes, path: IncidentPath) -> tuple[bytes, int] | None:
    """(value, chunk) as the truth has it of a path that a suspect failed; None: it has no such chunk any more."""
    value = None if volume.truth is None else world.tree.lookup(volume.truth, key)
    if value is None or not is_file(value) or not entry_size(value):
        return None
    chunk = path.chunks[0][0] if path.chunks else 0  # no proof at all: any chunk of it tells
    return (value, chunk) if chunk < chunk_count(entry_size(value), volume.config.chunk_bytes) else None


def _draw(world: World, volume: Volume, truth: bytes, rng: random.Random) -> tuple[bytes, bytes, int] | None:
    """A random chunk of the truth, nothing that is undetermined; None where there is none."""
    summary, chunk_bytes = world.tree.summary(truth), volume.config.chunk_bytes
    for _ in range(DRAWS if summary.files else 0):
        if summary.bytes and rng.random() < 0.5:
            key, value, offset = world.tree.file_at(truth, rng.randrange(summary.bytes), "bytes")
            chunk = offset // chunk_bytes
        else:
            key, value, _ = world.tree.file_at(truth, rng.randrange(summary.files), "files")
            chunk = rng.randrange(chunk_count(entry_size(value), chunk_bytes))
        if entry_size(value) and key not in volume.undetermined:
            return key, value, chunk
    return None


def _ask(
    world: World, volume: Volume, key: bytes, value: bytes, chunk: int, rng: random.Random, doubted: tuple[str, ...]
) -> None:  # fmt: skip
    """One question for everybody who claims to hold this entry. `doubted`: whose proof was another one a moment ago."""
    holders = [node for node in world.members(volume) if _holds(world, volume, node, key, value)]
    if not holders:
        return
    volume.audits.number += 1
    number, seed = volume.audits.number, rng.randbytes(SEED_BYTES)
    digest = decode_entry(value, world.algorithm.width).digest
    if entry_size(value) > volume.config.chunk_bytes:
        digest = decode_chunk_list(world.object(digest))[chunk]
    sessions = {node.name: node.session for node in holders if node.session is not None}
    volume.audits.asked = Audit(number, key, value, chunk, world.now.mono, sessions, doubted)
    question = wire.Audit(volume.name, number, key, chunk, digest, seed)
    for node in holders:
        world.send(node, question)
    world.wake(world.now.mono + AUDIT_ANSWER_MAX_S)


def _holds(world: World, volume: Volume, node: Node, key: bytes, value: bytes) -> bool:
    """Whether this node is there, is no matter of a fence or a repair, and claims to hold exactly this."""
    stored = node.volume(volume.name)
    return (
        not node.fenced
        and stored.held is not None
        and stored.root is not None
        and (stored.status is None or stored.status.problem is None)
        and world.compared(node, volume)
        and not world.recovers(node, volume.name)
        and world.tree.lookup(stored.root, key) == value
    )


def _is_complete(world: World, asked: Audit) -> bool:
    """Whether everybody has answered who is still connected as when it was asked."""
    return all(
        name in asked.answers or name not in world.nodes or world.nodes[name].session != session
        for name, session in asked.sessions.items()
    )


# --- judging --------------------------------------------------------------------------------------


def _conclude(world: World, volume: Volume, asked: Audit, rng: random.Random) -> None:
    """Hold the answers of those who still claim the entry against each other."""
    volume.audits.asked = None
    if volume.truth is None or world.tree.lookup(volume.truth, asked.key) != asked.value:
        return  # it changed meanwhile: so did what they read
    nodes = [
        world.nodes[name]
        for name, session in asked.sessions.items()
        if name in world.nodes and world.nodes[name].session == session
        and name in volume.config.nodes
        and _holds(world, volume, world.nodes[name], asked.key, asked.value)
    ]  # fmt: skip
    proofs = {
        node.name: answer.proof for node in nodes if (answer := asked.answers.get(node.name)) is not None
    }
    counts = Counter(proof for proof in proofs.values() if proof is not None)
    right, voters = counts.most_common(1)[0] if counts else (None, 0)
    if voters < quorum_of(len(volume.config.nodes)):
        right = None
    if right is None and len(counts) > 1:
        _count(world, volume, "undetermined")
        where = f"chunk {asked.chunk} of {path_words(asked.key)} in volume {volume.name}"
        world.log(
            "warning", f"an audit of {where} gave {len(counts)} different proofs and none has a majority"
        )
    wrong: list[Node] = []
    for node in nodes:
        proof = proofs.get(node.name)
        if proof is None:
            _unproven(world, volume, node, asked)
        elif right is not None and proof != right:
            wrong.append(node)
        elif right is not None:
            _proven(world, volume, node, asked)
    _contradicted(world, volume, asked, wrong, voters, rng)


def _contradicted(
    world: World, volume: Volume, asked: Audit, wrong: list[Node], voters: int, rng: random.Random
) -> None:
    """Ask once more before anybody is accused. `doubted` only grows: after as many rounds as nodes it ends."""
    for node in wrong:
        if node.name in asked.doubted:
            _count(world, volume, "refuted")
            _accuse_wrong(world, volume, node, asked, voters)
    fresh = tuple(node.name for node in wrong if node.name not in asked.doubted)
    if fresh:
        _ask(world, volume, asked.key, asked.value, asked.chunk, rng, (*asked.doubted, *fresh))


def _proven(world: World, volume: Volume, node: Node, asked: Audit) -> None:
    _count(world, volume, "proven")
    node.proven_ms[volume.name] = world.now.wall_ms
    volume.audits.unproven.pop(node.name, None)
    incident = world.open_incident("audit", node.name, volume.name)
    if incident is None:
        return
    about = incident.paths.get(asked.key)
    is_it = about is not None and (not about.chunks or about.chunks[0] == (asked.chunk, asked.chunk))
    if recurrence.by_hand(incident):
        return  # it has proven itself before, and failed again
    if is_it or all(_askable(world, volume, key, path) is None for key, path in incident.paths.items()):
        incident.note(world.now.wall_ms, "note", f"{node.name} has proven chunk {asked.chunk} of "
                      f"{path_words(asked.key)} from its disk.")  # fmt: skip
        world.close(incident)
        recurrence.proven(world, volume, node, incident)


def _unproven(world: World, volume: Volume, node: Node, asked: Audit) -> None:
    """No answer, or one without a proof. It may be that the file changed: the next audit sees whether it did."""
    _count(world, volume, "unproven")
    known = volume.audits.unproven.setdefault(node.name, {})
    if len(known) < UNPROVEN_MAX:
        known[asked.key] = asked.value


def _forgive(world: World, volume: Volume) -> None:
    """Forget what nodes no longer claim to hold; tell of those who claim much and prove nothing."""
    for name, paths in list(volume.audits.unproven.items()):
        node = world.nodes.get(name)
        root = None if node is None else node.volume(volume.name).root
        claimed = {
            key: value for key, value in paths.items() if root and world.tree.lookup(root, key) == value
        }
        if not claimed or node is None:
            del volume.audits.unproven[name]
            continue
        volume.audits.unproven[name] = claimed
        if len(claimed) >= UNPROVEN_MAX and not node.fenced:
            del volume.audits.unproven[name]
            _count(world, volume, "refuted")
            incident = incidents.no_proof(
                id=world.next_incident(), node=name, volume=volume.name, now_ms=world.now.wall_ms,
                keys=sorted(claimed), on_divergence=volume.config.on_divergence,
            )  # fmt: skip
            _accuse(world, volume, node, incident)


def _accuse_wrong(world: World, volume: Volume, node: Node, asked: Audit, voters: int) -> None:
    incident = incidents.refuted(
        id=world.next_incident(), node=node.name, volume=volume.name, now_ms=world.now.wall_ms, key=asked.key,
        chunk=asked.chunk, voters=voters, need=quorum_of(len(volume.config.nodes)),
        assigned=len(volume.config.nodes), on_divergence=volume.config.on_divergence,
        algorithm=world.algorithm,
    )  # fmt: skip
    _accuse(world, volume, node, incident)


def _accuse(world: World, volume: Volume, node: Node, incident: Incident) -> None:
    """One incident is open for a node's volume; it is suspect as long as that is so."""
    if world.open_incident("audit", node.name, volume.name) is not None:
        return
    world.open(incident)
    recurrence.failed(world, volume, node, incident)
    world.publish("node", node.name)
    world.log("warning", f"{incident.summary} ({incident.id})")


def _count(world: World, volume: Volume, result: str) -> None:
    world.count("closeranks_audits_total", 1, volume=volume.name, result=result)
