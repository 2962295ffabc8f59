"""Planted bugs: each one small, plausible, and to be caught. Run by `make sim-mutations`.

A mutation is a piece of source that is replaced in a copy of the packages; the copy is played by the swarm or by whole
programs until a seed fails. Those that nobody catches are told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent/closeranks_agent", "coordinator/closeranks_coordinator", "proto/closeranks_proto")
CORE = "coordinator/closeranks_coordinator/core"
CONVERGE = "agent/closeranks_agent/converge"
SWAP = f"{CONVERGE}/swap.py"
DISK = "agent/closeranks_agent/disk"
STORE = "coordinator/closeranks_coordinator/storage"
LIMIT_S = 600.0
WRITERS = "--policy any-writer --nodes 3 --faults"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`args` narrow down what is played; `shells` plays whole programs instead of the swarm."""

    name: str
    file: str
    old: str
    new: str
    args: str = ""
    shells: bool = False


MUTATIONS = (
    Mutation(
        "judge: a step to a later truth counts only where it is the very next", f"{CORE}/judge.py",
        "further = late is not None and order > (", "further = late is not None and order == 1 + (", "--policy quorum",
    ),
    Mutation(
        "judge: how far a node has followed is not kept",
        f"{CORE}/verdicts.py",
        'stored.held = after.held\n            world.touch("node", node.name)',
        "stored.held = after.held",
        "--policy quorum",
    ),
    Mutation(
        "history: only one step is remembered", f"{CORE}/history.py",
        "for at in range(len(known) - 1, 0, -2):",
        "for at in range(len(known) - 1, 0, -2)[:1]:", "--policy quorum",
    ),
    Mutation(
        "lateness: a step that was reached is still lacking", f"{CORE}/lateness.py",
        "(history.latest_order(key, raw[key][0]) or 0) < order",
        "(history.latest_order(key, raw[key][0]) or 0) <= order",
        "--policy writers",
    ),
    Mutation(
        "truth: half of the nodes are a quorum", f"{CORE}/truth.py", "return nodes // 2 + 1",
        "return (nodes + 1) // 2",
        "--policy quorum --nodes 4",
    ),
    Mutation(
        "truth: a tie is decided by whoever is first", f"{CORE}/truth.py",
        "        if size >= need:\n            changes[key]",
        "        if size >= need - 1:\n            changes[key]", "--policy quorum",
    ),
    Mutation(
        "clocks: nobody else need have looked", f"{CORE}/clocks.py",
        "elif scanned is not None and scanned > bucket.first:", "elif scanned is not None:",
        "--policy quorum --nodes 5",
    ),
    Mutation(
        "clocks: another write to a path restarts its clock", f"{CORE}/verdicts.py",
        "        view.clocks.change(own, gone, now)\n",
        "        view.clocks.change((), own, now)\n        view.clocks.change(own, gone, now)\n",
        "--policy quorum --nodes 5",
    ),
    Mutation(
        "recovery: released while paths have no majority", f"{CORE}/recovery.py",
        "    if any(node.view(volume.name).unclear for volume in volumes):", "    if False:",
        "--policy quorum --nodes 5",
    ),
    Mutation(
        "merging: a deletion is not merged", f"{CORE}/merging.py",
        "            work.remove(key)\n", "            pass\n", "--policy writers --nodes 5",
    ),
    Mutation(
        "currency: too few voters are no hindrance", f"{CORE}/currency.py",
        "        if len(self._volume.voters) < self._volume.need:\n            return None\n", "", "--policy quorum",
    ),
    Mutation(
        "truth: more than half of those who vote", f"{CORE}/nodes.py",
        "else quorum_of(len(self.config.nodes))", "else quorum_of(max(1, len(self.voters)))", "--policy quorum",
    ),
    Mutation(
        "fencing: max_quarantined is looked at once for all suspects of a round", f"{CORE}/fencing.py",
        "    for node in sorted(suspects, key=lambda one: (one.suspect_since, one.name)):\n"
        "        volume = _ready(world, node)\n        if fenced_count(world) >=",
        "    count = fenced_count(world)\n"
        "    for node in sorted(suspects, key=lambda one: (one.suspect_since, one.name)):\n"
        "        volume = _ready(world, node)\n        if count >=", "--policy quorum",
    ),
    Mutation(
        "fencing: a quorum may be lost", f"{CORE}/fencing.py",
        "        if len(members) - 1 < volume.need:\n            return False\n", "", "--policy quorum",
    ),
    Mutation(
        "pushing: a fenced node is pushed to", f"{CORE}/pushing.py", "        or node.fenced\n", "", "--nodes 5",
    ),
    Mutation(
        "pushing: a held node gives contents", f"{CORE}/givers.py",
        "        and not world.is_held(peer, volume)\n", "", "--nodes 5",
    ),
    Mutation(
        "movement: the truth's past is not durable", f"{CORE}/movement.py",
        "for order, root in volume.history.roots\n        ]", "for order, root in volume.history.roots[-1:]\n        ]",
        "--policy quorum --nodes 3 --faults coordinator_crash,stale_site,cut",
    ),
    Mutation(
        "recovery: a late node is converged over what it has changed meanwhile", f"{CORE}/recovery.py",
        'base = root if record.purpose == "lag" else None', "base = None",
        "--policy any-writer --nodes 5 --faults cut,slow_link,slow_disk,partition",
    ),
    Mutation(
        "votes: a held node founds", f"{CORE}/world.py", "if node.fenced or self.is_muted(node, volume) or not",
        "if node.fenced or not", "--policy quorum --faults filling,operator,late_start",
    ),
    Mutation(
        "votes: a fenced node votes", f"{CORE}/world.py", "if node.fenced or self.is_muted(node, volume) or not",
        "if self.is_muted(node, volume) or not", "--policy quorum",
    ),
    Mutation(
        "recovery: a held node gives chunks",
        f"{CORE}/givers.py",
        "        and not world.is_held(one, volume)\n",
        "",
        "--policy writers",
    ),
    Mutation(
        "table: a node that is late is never suspected",
        f"{CORE}/states.py",
        '    ("lagging", "suspect"): "a difference of its own was confirmed",\n',
        "",
    ),
    Mutation(
        "fencing: one more than max_quarantined", f"{CORE}/fencing.py",
        "if fenced_count(world) >= world.config.max_quarantined:",
        "if fenced_count(world) > world.config.max_quarantined:",
        "--policy quorum",
    ),
    Mutation(
        "recovery: a fenced node gives chunks", f"{CORE}/givers.py", "        and not one.fenced\n", "",
    ),
    Mutation(
        "recovery: the truth that a verified node equalled is not asked for again", f"{CORE}/recovery.py",
        "        work.quiet_since = None  # what was repaired differs again", "        pass", "--policy quorum",
    ),
    Mutation(
        "presence: the node is told before its peers", f"{CORE}/fleet.py",
        "return (*front, *membership, *others, *back)",
        "return (*front, *others, *membership, *back)",
    ),
    Mutation(
        "pushing: a fenced node gives contents", f"{CORE}/givers.py",
        "and not peer.fenced", "", "--policy any-writer",
    ),
    Mutation(
        "ingest: an announced tree is believed before it has come",
        f"{CORE}/ingest.py",
        "        if self._closure.done:\n            announced",
        "        if not ready or self._closure.done:\n            announced",
    ),
    Mutation(
        "merging: the version that came second is not kept", f"{CORE}/merging.py",
        "        else:\n            self._move(key, ours)\n\n    def _is_nowhere",
        "        else:\n            self.done.clashes.append(Clash(key, ours, theirs, None))\n\n    def _is_nowhere",
        "--policy any-writer --faults slow_link,cut,coordinator_crash",
    ),
    Mutation(
        "converge: what is replaced goes to no trash", SWAP,
        "            beneath.move_new(stage_name, room.stage_fd, taken.item, room.items_fd)\n    except BaseException:",
        "            os.unlink(stage_name, dir_fd=room.stage_fd)\n    except BaseException:", shells=True,
    ),
    Mutation(
        "converge: what is removed goes to no trash", SWAP,
        "    beneath.move_new(where.name, where.parent_fd, taken.item, room.items_fd)\n    status",
        "    os.unlink(where.name, dir_fd=where.parent_fd)\n    return\n    status", shells=True,
    ),
    Mutation(
        "converge: the new version is renamed over whatever is there", SWAP,
        "    if not beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd):\n"
        "        _replace_without_exchange(stage_name, room, where, taken)\n        return\n",
        "    if taken.discard.kind is not Kind.DIRECTORY:\n        _rename_over(stage_name, room, where)\n"
        "        return\n    beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd)\n", shells=True,
    ),
    Mutation(
        "journal: a step that could not be written counts as taken", f"{DISK}/history.py",
        "                    yield\n                self.journal.durable()\n"
        "            except BaseException:\n                self.journal.reload()\n",
        "                    yield\n                    self.journal.durable()\n            except BaseException:\n",
        "--faults bad_disk,cut", shells=True,
    ),
    Mutation(
        "journal: rows and steps are written in two transactions", f"{DISK}/history.py",
        "            with self._transaction(durable=bool(steps)):\n"
        "                self.index.write(delta, self._chunk_bytes, self._algorithm.width)\n",
        "            with self._transaction(durable=False):\n"
        "                self.index.write(delta, self._chunk_bytes, self._algorithm.width)\n"
        "            with self._transaction(durable=bool(steps)):\n", "--faults power,cut,rogue", shells=True,
    ),
    Mutation(
        "journal: the last number is not kept once its step is acknowledged", f"{DISK}/journal.py",
        "self.last_seq = max(last, cast(int, found[1] or 0))",
        "self.last_seq = cast(int, found[1] or 0) or min(last, 1)", "--faults power,kill", shells=True,
    ),
    Mutation(
        "journal: one step too many is forgotten", f"{DISK}/journal.py",
        '"DELETE FROM journal WHERE seq <= ?", (seq,)', '"DELETE FROM journal WHERE seq <= ?", (seq + 1,)',
        "--faults power,cut,kill_coordinator", shells=True,
    ),
    Mutation(
        "journal: a step is forgotten when it is sent", "agent/closeranks_agent/session.py",
        "            await self._send(record)\n            if window",
        "            await self._send(record)\n            volume.acknowledge(record.seq)\n            if window",
        "--faults cut,kill_coordinator,power_coordinator", shells=True,
    ),
    Mutation(
        "journal: an edit is lost when a step is sent again", f"{DISK}/journal.py",
        "return Commit(self._volume, seq, base_root, root, _DECODE(edits), cause",
        "return Commit(self._volume, seq, base_root, root, _DECODE(edits)[:1], cause",
        "--faults cut,kill_coordinator,part", shells=True,
    ),
    Mutation(
        "index: nothing waits for the disk any more", f"{DISK}/database.py",
        "synchronous = {'FULL' if durable else 'NORMAL'}", "synchronous = NORMAL",
        "--faults power,rogue", shells=True,
    ),
    Mutation(
        "state: a token is kept in memory alone", "agent/closeranks_agent/state.py",
        '                self._put("highest_token", max(self._highest_token, *tokens, 0))\n', "",
        "--faults power,kill,rogue", shells=True,
    ),
    Mutation(
        "converge: directories are not synced after the renames", f"{CONVERGE}/install.py",
        "sync_directories(self._room.root_fd, parents, trashed)",
        "sync_directories(self._room.root_fd, (), trashed)", "--faults power,rogue", shells=True,
    ),
    Mutation(
        "converge: what is staged is not synced", f"{CONVERGE}/durable.py",
        "    for fd in fds:\n        os.fsync(fd)\n\n\ndef sync_names", "\n\ndef sync_names",
        "--faults power,rogue", shells=True,
    ),
    Mutation(
        "trash: what comes is announced without a sync", f"{CONVERGE}/trash.py",
        "            state.ledger.sync()\n            state.next_number", "            state.next_number",
        "--faults power,rogue", shells=True,
    ),
    Mutation(
        "trash: a batch is called settled before its renames are durable", f"{CONVERGE}/install.py",
        "trashed = (self._room.items_fd,) if any(work.discard is not None for work in works) else ()",
        "trashed = ()", "--faults power,rogue", shells=True,
    ),
    Mutation(
        "store: nothing waits for the disk any more", f"{STORE}/schema.py",
        '"synchronous = FULL"', '"synchronous = NORMAL"', "--faults power_coordinator", shells=True,
    ),
    Mutation(
        "store: a batch that failed counts as written", f"{STORE}/writer.py",
        "                group[0].done(fault)", "                group[0].done(Delta())",
        "--faults power_coordinator,bad_disk", shells=True,
    ),
    Mutation(
        "session: a step is acknowledged before it is stored", "coordinator/closeranks_coordinator/session.py",
        "            self.outbox.post(wire.Ack(volume, accepted.seq))\n\n        self._core.feed(",
        "            self.outbox.post(wire.Ack(volume, accepted.seq))\n\n        durable()\n        self._core.feed(",
        "--faults power_coordinator,slow_disk", shells=True,
    ),
    Mutation(
        "fencing: the agents' highest token is not adopted", f"{CORE}/fencing.py",
        "    if highest_token > world.counters.token:\n"
        "        world.counters.token = highest_token\n"
        "        world.touch(\"counters\", \"\")\n",
        "", "--policy quorum --faults coordinator_lost,rogue",
    ),
    Mutation(
        "merging: two changes, the second began from an elder truth and wins", f"{CORE}/merging.py",
        "        return key not in self.analysis.behind",
        "        return True", "--policy any-writer",
    ),
    Mutation(
        "merging: a deletion wins over a change", f"{CORE}/merging.py",
        "            if self._is_nowhere(key, theirs):\n"
        "                self.done.changes[key] = None\n"
        "            elif not is_directory(theirs):",
        "            if not is_directory(theirs):\n"
        "                self.done.changes[key] = None\n"
        "            elif not is_directory(theirs):", "--policy any-writer",
    ),
    Mutation(
        "auditing: a majority of those who answered", f"{CORE}/auditing.py",
        "    if voters < quorum_of(len(volume.config.nodes)):\n"
        "        right = None",
        "    if voters < quorum_of(len(proofs)):\n"
        "        right = None", "--nodes 5 --faults liar,partition",
    ),
    Mutation(
        "auditing: one wrong proof is enough", f"{CORE}/auditing.py",
        "        if node.name in asked.doubted:\n",
        "        if True:\n", "--nodes 5 --faults liar,cut",
    ),
    Mutation(
        "arrivals: that a machine was put back is not heard", f"{CORE}/arrivals.py",
        "    if another or event.cause == wire.PUT_BACK:\n",
        "    if another:\n", "--policy any-writer --faults put_back,cut",
    ),
    Mutation(
        "decay: a writer's decayed file is its change", f"{CORE}/decay.py",
        '        if event.cause == "scrub":\n', "        if False:\n", "--policy any-writer --faults decay,cut",
    ),
    Mutation(
        "decay: what a writer tells anew is all its own, also what has decayed", f"{CORE}/decay.py",
        "        known = dict(event.decayed)\n",
        "        known = {}\n", "--policy any-writer --nodes 3 --faults decay,crash,store_full",
    ),
    Mutation(
        "decay: a truth is founded on what has decayed", f"{CORE}/decay.py",
        "    if not whole:\n        return root\n", "    return root\n",
        "--policy writers --nodes 3 --faults decay,coordinator_lost",
    ),
    Mutation(
        "decay: what was moved and has decayed then is what is left of it", f"{CORE}/decay.py",
        "        if any(lies_there(world, volume, name) for name in names):\n", "        if False:\n",
        "--policy any-writer --nodes 3 --faults coordinator_crash,decay,enospc,put_back,second_agent",
    ),
    Mutation(
        "founding: the first writer's tree is the truth", f"{CORE}/sequencing.py",
        "    if not heard and world.now.mono < due:\n        world.wake(due)\n        return\n"
        "    if not heard and any(",
        "    if False and any(", "--policy any-writer",
    ),
    Mutation(
        "founding: who still reads its tree is not waited for", f"{CORE}/sequencing.py",
        "if not heard and any(_is_reading", "if False and any(_is_reading", "--policy any-writer",
    ),
    Mutation(
        "requests: a person's release needs no proof", f"{CORE}/requests.py",
        "if not world.compared(node, volume) or world.left(node, volume, \"divergence\") != 0:",
        "if not world.compared(node, volume):", "--policy quorum",
    ),
    Mutation(
        "requests: a quorum may be lost by hand", f"{CORE}/requests.py",
        "    elif not quorum_survives(world, node):\n"
        "        return _quorum_lost(world, node)\n",
        "", "--policy quorum --nodes 3",
    ),
    Mutation(
        "holds: a quorum may be lost by a reject", f"{CORE}/holds.py",
        "    if not quorum_survives(world, node):\n"
        "        return Refusal(\n"
        "            409",
        "    if False:\n"
        "        return Refusal(\n"
        "            409", "--policy quorum --nodes 3",
    ),
    Mutation(
        "recovery: the quiet before a release is not waited for", f"{CORE}/recovery.py",
        "    if world.now.mono < due:\n"
        "        world.wake(due)\n"
        "        return False\n"
        "    late =",
        "    late =", "--policy quorum",
    ),
    Mutation(
        "targets: a late node is converged where nobody can judge", f"{CORE}/targets.py",
        "if key not in lagging or key in undetermined}",
        "if key not in lagging}", "--policy quorum --nodes 5",
    ),
    Mutation(
        "targets: a fenced node is converged where nobody can judge", f"{CORE}/targets.py",
        "    if not undetermined:\n"
        "        return {}\n",
        "    return {}\n", "--policy quorum --nodes 5",
    ),
    Mutation(
        "fencing: one suspect more is none too many", f"{CORE}/fencing.py",
        "limit = world.config.max_quarantined + 1",
        "limit = world.config.max_quarantined + 2", "--policy quorum --nodes 9",
    ),
    Mutation(
        "fencing: silent nodes are no reason to keep a quorum", f"{CORE}/fencing.py",
        "if node in heard and len(heard) == volume.need:",
        "if False:", "--policy quorum",
    ),
    Mutation(
        "fencing: the last unfenced node of a replicated volume is fenced", f"{CORE}/fencing.py",
        "if others and all(one.fenced for one in others):",
        "if False:", "--policy writers --nodes 3",
    ),
    Mutation(
        "clocks: settle_s is half of what it is", f"{CORE}/clocks.py",
        "due = min(bucket.start + settle_s, ",
        "due = min(bucket.start + settle_s / 2, ",
    ),
    Mutation(
        "put back: a number beyond its own is no sign", f"{DISK}/history.py",
        "return seq > self.journal.last_seq or (root",
        "return (root", "--faults put_back,cut", shells=True,
    ),
    Mutation(
        "put back: an announcement is numbered below what was acknowledged", f"{DISK}/journal.py",
        "        self.last_seq = max(self.last_seq, after_seq)\n",
        "", "--faults put_back,index_lost,cut", shells=True,
    ),
    Mutation(
        "converge: recorded before it is synced", f"{CONVERGE}/install.py",
        "            self._sync(works)\n"
        "            if any(work.discard is not None for work in works):\n"
        "                self._trash.settle(arrived, self._incident, self._ordinary)\n"
        "            self._commit(made, \"converge\", observed)\n",
        "            self._commit(made, \"converge\", observed)\n"
        "            self._sync(works)\n"
        "            if any(work.discard is not None for work in works):\n"
        "                self._trash.settle(arrived, self._incident, self._ordinary)\n",
        "--faults power,rogue", shells=True,
    ),
    Mutation(
        "store: chunk lists are garbage", f"{STORE}/collection.py",
        "        self._mark_chunk_lists(page.values)\n",
        "        pass\n", "--faults collect,kill", shells=True,
    ),
    Mutation(
        "rolling: what spreads does not restart its clock", f"{CORE}/rolling.py",
        "            view.clocks.restart(held[view.analysis], now)", "            pass",
        "--policy quorum --nodes 9 --faults stale_site",
    ),
    Mutation(
        "verdicts: all that an announced tree has changed is our doing", f"{CORE}/verdicts.py",
        "if view.is_commit and before is not None and root is not None:",
        "if before is not None and root is not None:",
        "--policy any-writer --nodes 3 --faults short_journal,cut,partition,crash,slow_link,slow_disk",
    ),
    Mutation(
        "verdicts: a node that is away is named by what it had", f"{CORE}/verdicts.py",
        "    elif world.compared(node, volume):\n        view.confirmed", "    else:\n        view.confirmed",
        "--policy quorum --nodes 5 --faults rogue,crash,cut,rot",
    ),
    Mutation(
        "judge: who equals the truth has held what it had before", f"{CORE}/judge.py",
        "now = held if held is None else truth", "now = held",
        "--policy quorum --nodes 5 --faults relapse,crash,cut,coordinator_crash",
    ),
    Mutation(
        "truth: exactly a quorum does not decide what was the truth already", f"{CORE}/truth.py",
        "        elif voters - sum(counts.values()) < need:", "        elif voters - sum(counts.values()) <= need:",
        "--policy quorum --nodes 5 --faults rogue,many_rogues,crash",
    ),
    Mutation(
        "fencing: work that is given up is not cancelled", f"{CORE}/fencing.py",
        "    world.send(node, wire.Cancel(record.action))\n", "",
        "--policy quorum --nodes 5 --faults rogue,crash,operator",
    ),
    Mutation(
        "recovery: who was fenced by hand is repaired unasked", f"{CORE}/recovery.py",
        "    if fence.by_hand:\n        return False\n", "", "--policy quorum --nodes 3 --faults operator,rogue",
    ),
    Mutation(
        "recovery: whoever is verified is released", f"{CORE}/recovery.py",
        'if fence.verified and fence.release == "automatic":', "if fence.verified:",
        "--policy quorum --nodes 3 --faults operator,rogue,crash",
    ),
    Mutation(
        "recovery: on_lag = wait is not asked for", f"{CORE}/recovery.py",
        'if volume.config.on_lag != "resync" or volume.truth is None:', "if volume.truth is None:",
        "--policy quorum --nodes 3 --faults stale_site,crash,late_start",
    ),
    Mutation(
        "fencing: on_divergence = quarantine repairs and releases", f"{CORE}/fencing.py",
        "if often or by_rule or again or is_doubted(world, node) else",
        "if often or again or is_doubted(world, node) else",
        "--policy quorum --nodes 3 --faults rogue",
    ),
    Mutation(
        "fencing: who has failed an audit is released by its own word", f"{CORE}/fencing.py",
        "if often or by_rule or again or is_doubted(world, node) else", "if often or by_rule or again else",
        "--policy quorum --nodes 5 --faults liar,rogue",
    ),
    Mutation(
        "requests: the same after a resync that a person asked for", f"{CORE}/requests.py",
        '= "by_hand" if is_doubted(world, node) else "automatic"', '= "automatic"',
        "--policy quorum --nodes 5 --faults liar,operator",
    ),
    Mutation(
        "holds: the same after a reject", f"{CORE}/holds.py",
        '= "by_hand" if is_doubted(world, node) else "automatic"', '= "automatic"',
        "--policy any-writer --nodes 5 --faults liar,filling,mass,operator",
    ),
    Mutation(
        "requests: a fence that a person takes over is lifted by itself", f"{CORE}/requests.py",
        'found.by_hand, found.release, found.reason, found.verified = True, "by_hand", asked.reason, False',
        "found.by_hand, found.reason, found.verified = True, asked.reason, False",
        "--policy quorum --nodes 5 --faults operator,rogue,rot",
    ),
    Mutation(
        "holds: a node that dials is not told of its hold", f"{CORE}/holds.py",
        '        if hold.state == "held":\n            tell(world, node, hold, rules_of(world, hold))',
        '        if hold.state == "held" and hold.unheld:\n            tell(world, node, hold, rules_of(world, hold))',
        "--policy writers --nodes 3 --faults filling,mass,cut,crash",
    ),
    Mutation(
        "persistence: holds do not hold after a restart", f"{CORE}/persistence.py",
        "    _take_up(world)\n    world.index_holds()\n", "    _take_up(world)\n",
        "--policy any-writer --nodes 4 --faults filling,mass,coordinator_crash",
    ),
    Mutation(
        "world: a hold is not written down", f"{CORE}/world.py", '        self.touch("hold", hold.id)\n', "",
        "--policy writers --nodes 3 --faults filling,mass,coordinator_crash",
    ),
    Mutation(
        "persistence: after a restart no conflict ends", f"{CORE}/persistence.py",
        "                    world.kept[(conflict.volume, conflict.kept)] = key\n", "",
        "--policy any-writer --nodes 3 --faults slow_link,coordinator_crash,cut",
    ),
    Mutation(
        "succession: the next first truth is the union of the trees, also of what was deleted meanwhile",
        f"{CORE}/sequencing.py", "    if before is not None and heirs:\n", "    if False:\n", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: what writers held is forgotten with other settings", f"{CORE}/placement.py",
        "            stored.before = edited.root\n", "            pass\n", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: who comes after the founding joins", f"{CORE}/verdicts.py",
        "        writes\n        and stored.held is None\n", "        False\n        and stored.held is None\n",
        f"{WRITERS} absence",
    ),
    Mutation(
        "succession: what is as it was held counts as changed", f"{CORE}/succession.py",
        "            if is_alike(now, base, width, whole_bytes):\n                continue\n", "", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: no removal is believed", f"{CORE}/succession.py",
        "        if len(keys_removed) > heirs[name].removals_max:\n", "        if keys_removed:\n",
        f"{WRITERS} absence",
    ),
    Mutation(
        "succession: who comes after the founding is late in nothing", f"{CORE}/succession.py",
        "            held.append((one.key, one.ours))\n", "            pass\n", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: who comes after the founding knew of all that had changed", f"{CORE}/succession.py",
        "            held.append((one.key, was))\n", "            pass\n", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: a second version under its plain name is only late", f"{CORE}/placement.py",
        "[(key, None) for key in own]", "[]", f"{WRITERS} absence",
    ),
    Mutation(
        "succession: what we brought and was told late is the node's change", f"{CORE}/arrivals.py",
        "    if stored.before is not None:\n        _hold", "    if False:\n        _hold",
        "--policy any-writer --nodes 3 --faults absence,slow_link,cut",
    ),
    Mutation(
        "succession: what only an absent writer has of the old truth is late", f"{CORE}/sequencing.py",
        "    if before is not None:\n        _leave", "    if False:\n        _leave",
        "--policy writers --nodes 9 --faults absence,cut,slow_disk,slow_link",
    ),
    Mutation(
        "session: a step to a root that another one has is held against the whole truth",
        "coordinator/closeranks_coordinator/session.py", "        if accepted.base is None:\n",
        "        if accepted.edits is None:\n", "--faults cut", shells=True,
    ),
    Mutation(
        "brake: what was changed and has gone since counts as changed as well", f"{CORE}/windows.py",
        "        for one in self._generations:\n            one.altered.discard(key)\n"
        "            one.retyped.discard(key)\n\n    def reach",
        "        pass\n\n    def reach", "--policy any-writer --nodes 3 --faults mass",
    ),
    Mutation(
        "brake: what a node adds makes the volume larger", f"{CORE}/windows.py",
        "        return max(self.present - grown, min(self.present, least))\n", "        return self.present\n",
        f"{WRITERS} flood",
    ),
    Mutation(
        "brake: nobody remembers how much a node has added", f"{CORE}/windows.py",
        "        self._turn(now).grown += entries\n", "", f"{WRITERS} flood",
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim.mutations", description=__doc__)
    parser.add_argument("--seeds", default="1-300", help="at most these for each, until one fails")
    parser.add_argument("--only", default="", help="those with this text in their name")
    parser.add_argument("--shard", default="1/1", help="I/N: each N-th of them, from the I-th on")
    args = parser.parse_args()
    part, _, parts = args.shard.partition("/")
    chosen = [one for one in MUTATIONS if args.only in one.name][int(part) - 1 :: int(parts)]
    missed = []
    print("| planted | caught by | seed | after |\n|---|---|---|---|")
    for mutation in chosen:
        began = time.monotonic()
        caught = play(mutation, args.seeds)
        took = time.monotonic() - began
        if caught is None:
            missed.append(mutation.name)
        name, seed = caught or ("**nobody**", "")
        print(f"| {mutation.name} | `{name}` | {seed} | {took:.0f} s |", flush=True)
    print(
        f"\n{len(missed)} of {len(chosen)} were missed: {'; '.join(missed)}"
        if missed
        else f"\nall {len(chosen)} were caught"
    )
    return 1 if missed else 0


def misplaced(mutations: Iterable[Mutation]) -> list[str]:
    """Those whose place is another now: they would be planted nowhere."""
    return [one.name for one in mutations if (ROOT / one.file).read_text().count(one.old) != 1]


def play(mutation: Mutation, seeds: str) -> tuple[str, str] | None:
    """(invariant, seed) of the first failure; None: none."""
    with tempfile.TemporaryDirectory() as copied:
        places = []
        for package in PACKAGES:
            place = Path(copied) / Path(package).parent
            shutil.copytree(
                ROOT / package, place / Path(package).name, ignore=shutil.ignore_patterns("__pycache__")
            )
            places.append(str(place))
        target = Path(copied) / mutation.file
        source = target.read_text()
        assert source.count(mutation.old) == 1, misplaced([mutation])
        target.write_text(source.replace(mutation.old, mutation.new))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(ROOT / "tests")])}
        module = "sim.shells" if mutation.shells else "sim"
        command = [sys.executable, "-m", module, "--seeds", seeds, "--first", *mutation.args.split()]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, env=environ, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    assert ran.returncode != 2, f"{mutation.name}: nothing was played: {ran.stderr}"
    line = next((one for one in ran.stdout.splitlines() if one.startswith("seed ")), None)
    if ran.returncode == 0 or line is None:
        return None
    words = line.split()
    return words[3].rstrip(":"), words[1]


if __name__ == "__main__":
    sys.exit(main())
