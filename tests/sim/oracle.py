"""What the truth was, who held what, and who wrote it: told from outside, without asking the judge.

It follows the roots that the core goes by and keeps, path by path, a history of its own of the truth and of how far
each node has followed it. When the coordinator is killed, what was not durable is undone here too.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from closeranks_proto import messages as wire
from closeranks_proto.tree import Tree

from .disk import Values, content_of, is_directory
from .invariants import hold
from .obeyed import held_in, muted_in

if TYPE_CHECKING:
    from .fleet import World


Seen = dict[bytes, list[tuple[float, bytes | None]]]  # by key: (since when, what the truth was)
Reached = dict[tuple[str, bytes], tuple[float, int]]
HOLD_BACK = frozenset({"partition", "slow_link", "freeze"})
DATED_SLACK_S = 0.15
CONFLICT = re.compile(rb"\.conflict-(node-\d+)-\d{8}-\d{6}-[0-9a-f]{6}(-\d+)?")
# By these a machine or the coordinator begins with nothing, or a person says that what a node has stands.
TOLD_ANEW = frozenset({"put_back", "coordinator_lost", "identity", "operator"})
BURY_EVERY_S = 2.0
BURY_AFTER_S = 20.0  # of a step of the truth: by then nothing of before is under way


@dataclass(slots=True)
class Move:
    """One step of the truth: key to (before, after). `order` is the core's number of it."""

    order: int
    root: bytes
    at: float
    changes: dict[bytes, tuple[bytes | None, bytes | None]]
    founding: bool

    @property
    def contents(self) -> set[bytes]:
        """Of the files that it brought."""
        return {content_of(new) for _, new in self.changes.values()} - {b""}


class Oracle:
    """Of one volume."""

    def __init__(self, world: World, volume: str) -> None:
        self.world, self.volume = world, volume
        self.tree: Tree = world.tree
        self.moves: list[Move] = []
        self.seen: Seen = {}
        self.roots: dict[str, bytes] = {}
        self.values: dict[str, Values] = {}
        self.contents: dict[str, Counter[bytes]] = {}
        # Since when the newest truth stood that a node has held, and which of the path's truths it was.
        self.reached: Reached = {}
        # The same of truths that were given up for a new one: until that is durable they may come back.
        self.given_up: list[tuple[list[Move], Seen, Reached, int]] = []
        self.ever: set[bytes] = set()  # contents that the truth has ever had
        self.undone: set[bytes] = set()  # of them: those of truths alone that were not durable before a crash
        self.dead: set[tuple[bytes, bytes]] = set()  # (key, content) that every node has left behind
        self.judged_first = False
        self.former: dict[str, Values] = {}  # what the step under way has changed, as it was before
        self.former_roots: dict[str, bytes] = {}
        self.buried = 0  # of the moves
        self.eligible: frozenset[str] = frozenset()
        self.joined: set[str] = set()  # nodes that have ever been taken into the truth that stands
        # The same of truths that other settings have ended: with another one none of them becomes a joiner.
        self.heirs: set[str] = set()
        self.former_truth: bytes | None = None  # what the last of those was
        self.left: set[tuple[bytes, bytes]] = set()  # (key, content) that those had left in the end
        self.written: set[tuple[bytes, bytes]] = set()  # (key, content), by anybody
        self.again: set[tuple[bytes, bytes]] = (
            set()
        )  # of these: where it had been written, or was the truth, before
        self.removed: dict[
            tuple[bytes, bytes], str
        ] = {}  # files of the truth that joined writers removed: who
        self.wrote: dict[tuple[bytes, bytes], str] = {}  # where somebody wrote what last
        self.differs: dict[tuple[str, bytes], float] = {}  # since when a node has had there something else
        self.held: dict[tuple[str, bytes], set[bytes]] = {}  # contents that a node has ever had there
        self.holders: dict[
            tuple[bytes, bytes | None], tuple[int, float]
        ] = {}  # of new entries: how many, since when
        self.first_root_at: float | None = None  # of a writer, while there is no truth
        self.last_moves: list[
            Move
        ] = []  # of the core's step under way: it may merge what several have changed
        self.accepted: dict[bytes, str] = {}  # contents that joined writers streamed, to whose and where
        # What pushes under way bring, by node and number: an entry that is on its way may still come to a node.
        self.pushes: dict[tuple[str, int], set[tuple[bytes, bytes]]] = {}
        # The same of repairs, each a way through the truth of when it was ordered: (node, order) while it may run.
        self.repairs: list[tuple[str, wire.Converge]] = []
        self.unburied: dict[tuple[bytes, bytes], None] = {}  # what the truth has left, and somebody has yet
        self.looked_at = 0.0  # when it was looked whether anybody has it still

    # --- what the core goes by ------------------------------------------------------------------

    def restarted(self) -> None:
        """Another process: undo what it does not know of, also that a truth was given up."""
        past, core = self._past(), self.world.core
        if not past:
            self._give_up()
            # Who had joined is known by what was durable.
            self.heirs &= {
                name for name, node in core.nodes.items() if node.volume(self.volume).before is not None
            }
        else:
            self._undo(past[-1])
            if not self.moves and self.given_up:
                self.heirs.clear()
                self.left.clear()
            while not self.moves and self.given_up:
                self.moves, self.seen, self.reached, self.buried = self.given_up.pop()
                self._undo(past[-1])
            self.given_up.clear()
        self.eligible = frozenset()
        self.joined.clear()
        self._follow_nodes()

    def _give_up(self) -> None:
        """There is to be a new truth, and nobody is held against the old one."""
        if self.moves:
            self.heirs |= self.joined
            self.former_truth = self.moves[-1].root
            self.left |= {
                (key, content)
                for move in self.moves
                for key, (old, _) in move.changes.items()
                if (content := content_of(old)) and content != content_of(self.truth(key))
            }
            self.given_up.append((self.moves, self.seen, self.reached, self.buried))
        self.moves, self.seen, self.reached, self.buried = [], {}, {}, 0
        self.joined.clear()

    def _undo(self, newest: tuple[int, bytes]) -> None:
        """Go back to when this, by its number and its root, was the truth."""
        undone: set[bytes] = set()
        while self.moves and (self.moves[-1].order, self.moves[-1].root) != newest:
            move = self.moves.pop()
            undone |= move.contents
            self.buried = min(self.buried, len(self.moves))
            for key in move.changes:
                if key in self.seen:
                    self.seen[key].pop()
                    if not self.seen[key]:
                        del self.seen[key]
        self.undone |= undone.difference(*(one.contents for one in self.moves))

    def follow(self, judged_first: bool = False) -> None:
        """After a step. `judged_first`: what came before its event was judged, before it was taken."""
        self.judged_first = judged_first
        before = self.eligible
        self.eligible = self._eligible()
        moved = self._follow_nodes()
        self._follow_truth(before | self.eligible)
        if moved:
            self._bury()

    def truth(self, key: bytes) -> bytes | None:
        known = self.seen.get(key)
        return known[-1][1] if known else None

    def _was(self, key: bytes) -> bytes | None:
        """In the truth that other settings have ended last."""
        return None if self.former_truth is None else self.tree.lookup(self.former_truth, key)

    def tree_values(self) -> list[bytes]:
        """The entries of the truth as it is."""
        return [value for _, value in self.tree.walk(self.moves[-1].root)] if self.moves else []

    def _past(self) -> list[tuple[int, bytes]]:
        """The truths that the core knows of, by number, oldest first."""
        volume = self.world.core.volumes.get(self.volume)
        return [] if volume is None else [(order, root) for order, root, _ in volume.record.roots]

    def _eligible(self) -> frozenset[str]:
        """Those whose word counts at most: connected, not fenced, not held."""
        core = self.world.core
        volume = core.volumes[self.volume]
        muted = held_in(core) if volume.config.replicated else muted_in(core)
        return frozenset(
            name
            for name, node in core.nodes.items()
            if node.session is not None
            and node.record.fence is None
            and not {(name, self.volume), (name, "")} & muted
        )

    def _follow_nodes(self) -> list[str]:
        moved: list[str] = []
        self.former, self.former_roots = {}, {}
        for name, node in self.world.core.nodes.items():
            root = node.volume(self.volume).root
            old = self.roots.get(name, self.tree.empty.root)
            if root is None or root == old:
                continue
            moved.append(name)
            self.roots[name], self.former_roots[name] = root, old
            former = self.former[name] = {}
            values, contents = self.values.setdefault(name, {}), self.contents.setdefault(name, Counter())
            for one in self.tree.diff(root, old):
                former[one.key] = one.theirs
                if one.theirs is not None:
                    contents[content_of(one.theirs)] -= 1
                if one.ours is None:
                    values.pop(one.key, None)
                    self._left(name, one.key, one.theirs)
                else:
                    values[one.key] = one.ours
                    contents[content_of(one.ours)] += 1
                    self.held.setdefault((name, one.key), set()).add(content_of(one.ours))
                    self._streamed(name, one.key, one.ours)
                self._reach(name, one.key)
        if self.first_root_at is None and any(one in self.world.plan.writers for one in moved):
            self.first_root_at = self.world.time.now
        self.joined |= {
            name for name, node in self.world.core.nodes.items() if node.volume(self.volume).held is not None
        }
        return moved

    def _left(self, node: str, key: bytes, value: bytes | None) -> None:
        """A writer has removed what the truth has there: so must the truth.

        Unless another one has brought the same there on its own, which nobody has heard of yet.
        """
        truth = self.truth(key)
        if not self.moves:
            truth = self._was(key)
        if value is None or not content_of(value) or value != truth:
            return
        by = self.wrote.get((key, value))
        if by not in (None, node) and self.values.get(by, {}).get(key) != value:
            return
        if node in self.eligible and node in self.world.plan.writers and node in self.joined | self.heirs:
            self.removed[key, value] = node

    def _streamed(self, node: str, key: bytes, value: bytes) -> None:
        """What a writer brings is accepted, unless it has yet to join: then its own goes to its trash (RULES 1.6).

        Whoever has joined once does not become a joiner again, whatever the core makes of it.
        """
        content = content_of(value)
        has_joined = node in self.heirs or (node in self.joined and self.moves)
        counts = node in self.eligible and has_joined and node in self.world.plan.writers
        if content and counts:
            self.accepted.setdefault(content, f"{node} {key!r}")

    def _reach(self, node: str, key: bytes) -> None:
        """What this node has there may be a truth: the present one, or one that it lacked and has come to late.

        Of several that are alike the first that it lacked: it may go on to what followed.
        """
        known, value = self.seen.get(key), self.values[node].get(key)
        if value == self.truth(key):
            self.differs.pop((node, key), None)
        else:
            self.differs.setdefault((node, key), self.world.time.now)
            self._spreads(key, value)
        if not known:
            return
        reached = self.reached.get((node, key))
        if value == known[-1][1]:
            self.reached[node, key] = known[-1][0], len(known)
        elif reached is not None:
            orders = ((since, number) for number, (since, truth) in enumerate(known, 1) if truth == value)
            self.reached[node, key] = next((order for order in orders if order >= reached), reached)

    def _spreads(self, key: bytes, value: bytes | None) -> None:
        """One more node may have what the truth never had there."""
        if self.world.policy != "quorum" or any(value == truth for _, truth in self.seen.get(key, ())):
            return
        nodes = self.world.core.nodes
        holders = sum(
            values.get(key) == value
            and nodes[name].record.fence is None
            and nodes[name].volume(self.volume).held is not None  # who joins has no word yet
            for name, values in self.values.items()
        )
        if holders > self.holders.get((key, value), (1, 0.0))[0]:
            self.holders[key, value] = holders, self.world.time.now

    def spread_at(self, node: str, key: bytes) -> float:
        """When the number of those that hold what this node has there has grown last."""
        return self.holders.get((key, self.values[node].get(key)), (0, float("-inf")))[1]

    def learned(self, node: str) -> None:
        """A person has said that what it has is all there is: it goes on from the truth as it is.

        Where nobody has what the truth has, what it has itself stands, also where that is of long ago.
        """
        for key in self.lacking(node) if node in self.roots else ():
            theirs = content_of(self.truth(key))
            if theirs and not any(content_of(values.get(key)) == theirs for values in self.values.values()):
                self.rewritten(key, self.values[node].get(key))
        for key in self.seen:
            self.held.setdefault((node, key), set()).add(content_of(self.truth(key)))
        for value in self.values.get(node, {}).values():
            self.world.taken_over(content_of(value))

    def own_contents(self, node: str) -> set[bytes]:
        """Contents of files that this node has and the truth never had."""
        found = (
            {content_of(self.values[node].get(key)) for key in self.own(node)}
            if node in self.roots
            else set()
        )
        return found - self.ever - {b""}

    def _follow_truth(self, eligible: frozenset[str]) -> None:
        """Every truth that a step went through, for itself: what one writer let go another may replace at once."""
        past = self._past()
        self.last_moves = []
        if self.moves and (not past or self._began_anew(past)):
            self._give_up()
        for order, root in past:
            before = self.moves[-1] if self.moves else None
            if before is None or (order > before.order and root != before.root):
                self._move(order, root, before, eligible)

    def _began_anew(self, past: list[tuple[int, bytes]]) -> bool:
        """Whether its numbers start from the beginning: with other settings a baseline is the truth again at once."""
        newest = self.moves[-1]
        return past[-1][0] <= newest.order and (newest.order, newest.root) not in past

    def _move(self, order: int, root: bytes, before: Move | None, eligible: frozenset[str]) -> None:
        now = self.world.time.now
        found = self.tree.diff(root, self.tree.empty.root if before is None else before.root)
        changes = {one.key: (one.theirs, one.ours) for one in found}
        move = Move(order, root, now, changes, founding=before is None)
        self.last_moves.append(move)
        self.moves.append(move)
        self.ever |= move.contents
        self.undone -= move.contents
        for key, (old, new) in changes.items():
            if not self.seen.get(key):
                self.seen[key] = [(0.0, old)]
            self.seen[key].append((now, new))
            for node in self.values:
                former = self.former.get(node, {}) if self.judged_first else {}
                if (
                    key in former and former[key] == new
                ):  # it had this when it became the truth, and left it then
                    self.reached[node, key] = now, len(self.seen[key])
                self._reach(node, key)
        self._decided(move, eligible)

    # --- who decides ---------------------------------------------------------------------------

    def _decided(self, move: Move, eligible: frozenset[str]) -> None:
        policy = self.world.policy
        if policy == "quorum":
            need = len(self.world.core.volumes[self.volume].config.nodes) // 2 + 1
            for key, (_, new) in move.changes.items():
                holders = [one for one in sorted(eligible) if self._had(one, key, new)]
                hold(
                    "quorum_decides", len(holders) >= need,
                    f"the truth of {key!r} was changed on the word of {holders}, {need} are needed",
                )  # fmt: skip
        elif policy in ("writers", "any-writer"):
            self._merged(move, eligible)

    def _had(self, node: str, key: bytes, value: bytes | None) -> bool:
        """Now, or before this step: what follows from one event may be judged when the next one comes."""
        former = self.former.get(node, {})
        return self.values.get(node, {}).get(key) == value or (key in former and former[key] == value)

    def _had_content(self, node: str, key: bytes, content: bytes) -> bool:
        former = self.former.get(node, {})
        now = content_of(self.values.get(node, {}).get(key))
        return now == content or (key in former and content_of(former[key]) == content)

    def _has_kept(self, node: str, key: bytes, content: bytes) -> bool:
        """Now and before this step: of what has only come back nobody may have been told yet."""
        former = self.former.get(node, {})
        now = content_of(self.values.get(node, {}).get(key))
        return now == content and (key not in former or content_of(former[key]) == content)

    def _held(self, node: str, content: bytes) -> bool:
        former = self.former.get(node, {}).values()
        return self.contents.get(node, Counter())[content] > 0 or any(
            content_of(one) == content for one in former
        )

    def _was_before(self, node: str, content: bytes) -> bool:
        """Whether something that this node has is decayed, and was this before: whoever has it may give it back."""
        before = self.world.decayed
        for rot in [content_of(value) for value in self.values.get(node, {}).values()]:
            met: set[bytes] = set()
            while rot in before and rot not in met:
                met.add(rot)
                rot = before[rot]
            if content in met | {rot} and met:
                return any(self._held(one, content) for one in self.values)
        return False

    def _merged(self, move: Move, eligible: frozenset[str]) -> None:
        writers = [one for one in self.world.plan.writers if one in eligible]
        for key, (old, new) in move.changes.items():
            content, left = content_of(new), content_of(old)
            if content and content != left:
                had = any(self._held(one, content) for one in writers)
                if move.founding and not had:
                    had = any(self._was_before(one, content) for one in writers)
                hold(
                    "writers_decide", had or content in self.world.replaced_in_truth,
                    f"{key!r} has a content that no writer in {writers} holds",
                )  # fmt: skip
                if move.founding and self.world.lost and content in self.world.restored:
                    self.dead.discard((key, content))  # nobody on either side knows of anything later
                hold("deleted_stays", (key, content) not in self.dead, f"{key!r} came back in the truth")
                # Where nobody who is heard has what came after it, it stands until somebody comes with that.
                after = content_of(self._was(key))
                known = not after or any(self._had_content(one, key, after) for one in writers)
                is_old = known and (key, content) in self.left - self.again
                is_old = is_old and not self.world.plan.faults & TOLD_ANEW
                hold("deleted_stays", not is_old, f"{key!r} came back in the truth by other settings")
            if left and content != left:
                self.world.replaced_in_truth.add(left)
        values = dict(self.tree.walk(move.root))
        if move.founding:
            self._founded()
            self._disbelieved()
            self._founded_sound({content_of(one) for one in values.values()})
            for (
                _,
                new,
            ) in move.changes.values():  # whatever writers have then is the truth, also what had decayed
                self.world.authors.pop(content_of(new), None)
        else:
            beside = {content_of(one) for one in values.values()}
            for key, (old, new) in move.changes.items():
                self._is_known(key, content_of(old), new, writers, beside)
        for key in move.changes:
            parent = key.rpartition(b"\0")[0]
            fits = key not in values or not parent or (parent in values and is_directory(values[parent]))
            hold("holdable", fits, f"{key!r} lies in nothing that the truth has as a directory")

    def _is_known(
        self, key: bytes, left: bytes, new: bytes | None, writers: list[str], beside: set[bytes]
    ) -> None:
        """What goes was known to one of those who have what comes; or it lives on, or nobody has it there any more."""
        if not left or left == content_of(new) or left in beside:
            return
        content = content_of(new)  # its attributes may be of another change
        known = any(
            left in self.held.get((one, key), ()) for one in writers if self._had_content(one, key, content)
        )
        there = any(self._has_kept(one, key, left) for one in self.values)
        # Whoever has moved its own version, or written over it, gives up the second one. That may be of a second one.
        for second in [*CONFLICT.finditer(key)][-1:]:
            there = self._has_kept(second[1].decode(), key[: second.start()] + key[second.end() :], left)
        hold(
            "no_lost_update", known or not there,
            f"{key!r} left the truth, and none of {writers} that has what came had held it",
        )  # fmt: skip

    def _founded(self) -> None:
        """Of a fleet that begins: whoever is heard later joins, and what it has of its own goes to its trash."""
        core = self.world.core
        config = core.volumes[self.volume].config
        missing = [one for one in config.writers if core.nodes[one].volume(self.volume).root is None]
        waited = self.world.time.now - (self.first_root_at or 0.0)
        hold(
            "founded_by_all", not missing or waited >= config.settle_s,
            f"founded {waited:.3f} s after the first root, and {missing} were not heard",
        )  # fmt: skip
        reading = [one for one in missing if self._reads(one)]
        hold("founded_by_all", not reading, f"founded while {reading} are connected and read their trees")

    def _disbelieved(self) -> None:
        """Of who lacks so much of the truth of before that it looks like another disk no removal is asked for."""
        was = [] if self.former_truth is None else [key for key, _ in self.tree.walk(self.former_truth)]
        for node in sorted(set(self.removed.values())):
            rules = self.world.core.volumes[self.volume].config.guards
            gone = sum(key not in self.values[node] for key in was)
            if gone > max(rules.share_min_paths, int(rules.deleted_share * len(was))):
                self.removed = {one: by for one, by in self.removed.items() if by != node}

    def _reads(self, name: str) -> bool:
        node = self.world.core.nodes[name]
        status = node.volume(self.volume).status
        is_well = status is None or status.problem is None
        return node.session is not None and not node.fenced and self.volume in (node.offers or ()) and is_well

    def _founded_sound(self, contents: set[bytes]) -> None:
        """Of nodes that this process has heard of: what a writer's scrub found and told, another has sound."""
        core = self.world.core
        heard = {
            name: values
            for name, values in self.values.items()
            if core.nodes[name].volume(self.volume).root is not None
        }
        for name in [one for one in self.world.plan.writers if one in heard]:
            found = self.world.agents[name].copies[self.volume].found
            others = [values for one, values in heard.items() if one != name]
            for key, (before, now) in found.items():
                rot = content_of(now)
                told = content_of(heard[name].get(key)) == rot
                alone = not any(content_of(value) == rot for values in others for value in values.values())
                sound = any(content_of(values.get(key)) == content_of(before) for values in others)
                hold(
                    "founded_sound", not (told and alone and sound and rot in contents),
                    f"the first truth has what {name} found decayed at {key!r}, and others have it sound",
                )  # fmt: skip

    def _bury(self) -> None:
        """What the truth has left some time ago, and no node holds or is about to tell of any more."""
        if self.world.policy not in ("writers", "any-writer"):
            return
        for move in self.moves[self.buried :]:
            if move.at > self.world.time.now - BURY_AFTER_S:
                break
            self.buried += 1
            for key, (old, _) in move.changes.items():
                content = content_of(old)
                if content:
                    self.unburied[key, content] = None
        if self.world.time.now < self.looked_at + BURY_EVERY_S:
            return
        self.looked_at = self.world.time.now
        for key, content in list(self.unburied):
            if content != content_of(self.truth(key)) and not self._lives(key, content):
                self.dead.add((key, content))
                del self.unburied[key, content]

    def pushed(self, node: str, push: wire.Push) -> None:
        """It is sent."""
        found = self.pushes.setdefault((node, push.push), set())
        found.update((edit.key, content_of(edit.after)) for edit in push.edits)

    def ordered(self, node: str, order: wire.Converge) -> None:
        """It is sent."""
        self.repairs.append((node, order))

    def _is_under_way(self, key: bytes, content: bytes) -> bool:
        """Whether a push brings it that is good, or has not come yet; or a repair, ordered when it was the truth.

        Whoever is repaired is out of rank, and goes on to the present truth from there.
        """
        now = self.world.time.now
        if any(content_of(self.tree.lookup(one.target_root, key)) == content for _, one in self.repairs):
            return True
        for (node, number), brings in self.pushes.items():
            if (key, content) in brings:
                had = [
                    one
                    for one in self.world.agents[node].orders.pushes[self.volume]
                    if one.push.push == number
                ]
                if not had or any(one.good_until >= now for one in had):
                    return True
        return False

    def _lives(self, key: bytes, content: bytes) -> bool:
        if self._is_under_way(key, content):
            return True
        if any(content_of(values.get(key)) == content for values in self.values.values()):
            return True
        for _, copy in self.world.spread(self.volume):
            if content in (content_of(copy.disk.get(key)), content_of(copy.rows.get(key))):
                return True
            if any(content_of(before) == content for _, name, before in copy.unsynced if name == key):
                return True
            for record in copy.journal:
                edits = record.edits if isinstance(record, wire.Commit) else ()
                if any(edit.key == key and content_of(edit.value) == content for edit in edits):
                    return True
        return False

    def left_behind(self, node: str) -> list[tuple[bytes, bytes]]:
        """(key, entry) of files that the truth had after this node had joined it, and both have left for another."""
        return [
            (key, value)
            for key, known in sorted(self.seen.items())
            if self.reached.get((node, key), (0.0, 0))[1] == len(known)
            for since, value in known[:-1]
            if since and value is not None and content_of(value) and value != known[-1][1]
        ]

    def rewritten(self, key: bytes, value: bytes | None, by: str | None = None) -> None:
        """Somebody has written this there (again)."""
        one = key, content_of(value)
        if one in self.written or one[1] in self.ever:
            self.again.add(one)
        self.written.add(one)
        self.dead.discard((key, content_of(value)))
        if value is not None and by is not None:
            self.wrote[key, value] = by
        if value is not None:
            self.removed.pop((key, value), None)

    def kept(self, key: bytes, value: bytes) -> None:
        """Somebody has changed what lies there in place: if only its attributes, its content is meant."""
        self.again.add((key, content_of(value)))

    # --- who is accused ------------------------------------------------------------------------

    def accused(self, node: str, keys: list[bytes], regression: bool) -> None:
        """An incident accuses this node of these paths."""
        core = self.world.core
        volume = core.volumes[self.volume]
        self._looked_again(node, keys)
        keep_s = self.world.coordinator.config.history_keep_s
        view = core.nodes[node].view(self.volume)
        # What it is accused of lies in the root that was judged: in a large fleet a newer one may have come since.
        judged = None if view is None or view.stand is None else view.stand.root
        for key in keys:
            mine = self.values[node].get(key) if judged is None else self.tree.lookup(judged, key)
            known = self.seen.get(key)
            if not known:
                continue
            if self.world.policy == "quorum":
                holders = sum(self._had(one, key, known[-1][1]) for one in self.values)
                hold(
                    "quorum_accuses", holders >= volume.need,
                    f"{node} is accused of {key!r} and only {holders} hold the truth, {volume.need} are needed",
                )  # fmt: skip
            reached = self.reached.get((node, key))
            if reached is None:
                continue
            for number, ((since, value), (left, _)) in enumerate(pairwise(known), 1):
                if (since, number) >= reached and left > self.world.time.now - keep_s:
                    hold(
                        "no_false_accusation", value != mine, f"{node} is accused of {key!r} and is only late"
                    )

    def _looked_again(self, node: str, keys: list[bytes]) -> None:
        """Of one of the paths at least every other voter has looked since it was first seen to differ.

        A proof is dated when it comes: what a network, or a stopped coordinator, holds back counts as newer than it is.
        """
        world = self.world
        if world.policy != "quorum" or world.plan.gathered or world.plan.faults & HOLD_BACK:
            return
        since = min((self.differs.get((node, key), world.time.now) for key in keys), default=world.time.now)
        for voter in world.core.volumes[self.volume].voters:
            looked = world.agents[voter].looked_at[self.volume]
            hold(
                "looked_again", voter == node or looked > since - DATED_SLACK_S,
                f"{node} is named for what differs since {since - 1000:.3f}, and {voter} looked at {looked - 1000:.3f}",
            )  # fmt: skip

    def lacking(self, node: str, judged: bool = False) -> list[bytes]:
        """Paths in which this node differs from the truth; `judged`: as it was when the step was judged."""
        root = self.former_roots.get(node) if judged and self.judged_first else None
        return (
            sorted(one.key for one in self.tree.diff(root or self.roots[node], self.moves[-1].root))
            if self.moves
            else []
        )

    def own(self, node: str, judged: bool = False) -> list[bytes]:
        """Paths in which this node has what the truth never had."""
        values, keys = self.values.get(node, {}), self.lacking(node, judged)
        if judged and self.judged_first:
            values = values | self.former.get(node, {})
        return [key for key in keys if all(values.get(key) != value for _, value in self.seen.get(key, ()))]

    def oldest_lacking(self, node: str) -> float | None:
        """When the oldest step of the truth was made that this node lacks; None: it lacks nothing that is known."""
        values = self.values.get(node, {})
        steps: Counter[bytes] = Counter()  # by number, as several may have been made at one moment
        for move in self.moves:
            for key in move.changes:
                steps[key] += 1
                has = [number for number, (_, value) in enumerate(self.seen[key]) if value == values.get(key)]
                if max(has, default=0) < steps[key] and values.get(key) != self.truth(key):
                    return move.at
        return None
