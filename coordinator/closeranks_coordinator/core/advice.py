"""What to do about an incident: why it matters, and the exact command to type next. Pure words.

They are for volunteers who see closeranks for the first time, and one printable line each. What is right to do changes
with what was done already, so every text is a function of how things stand; `advising` looks how they do and asks
again whenever somebody looks. Rejected: one text, kept with the record when it is opened (it told people to decide
what they had decided).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import words
from .model import OnDivergence


@dataclass(frozen=True, slots=True)
class Standing:
    """How an accused node stands. `blocked_by`: why it is not fenced though it should be, None where it need not wait.

    `trouble`: what keeps its way back from going on, "" where nothing does.
    """

    fenced: bool = False
    by_hand: bool = False
    automatic: bool = False
    verified: bool = False
    recovering: bool = False
    blocked_by: str | None = None
    max_quarantined: int = 1
    trouble: str = ""


NEWLY_NAMED = Standing()


def difference(
    id: str, kind: str, node: str, volume: str, policy: OnDivergence, at: Standing = NEWLY_NAMED
) -> str:
    """Of a divergence or regression."""
    if kind == "regression":
        why = (
            f"{node} is not late: it had the present entries and lost them. Usual causes: a restored backup or "
            f"snapshot, a disk that dropped writes at a power cut, a second copy job that runs on {node}."
        )
    else:
        why = (
            f"Whoever reads these paths on {node} gets something else than on the other nodes: a process on "
            f"{node} wrote or deleted them, or its disk lost or changed them."
        )
    look = f"See the paths: `closeranks diff {volume} {node}`."
    now = _fenced(node, look, at) if at.fenced else _unfenced(node, look, policy, at)
    return (
        f"{why} {now} What a resync replaces or removes stays in the trash of {node}: "
        f"`closeranks trash list {node} --incident {id}`."
    )


def _unfenced(node: str, look: str, policy: OnDivergence, at: Standing) -> str:
    waits = _blocked(node, look, at)
    if waits:
        return waits
    match policy:
        case "alert":
            return (
                f"This volume only alerts: {node} keeps serving and nothing on its disk was changed. {look} If the "
                f"others are right, `closeranks resync {node}` fences it, brings it back and releases it. If {node} is "
                f"right, bring the others to what it holds; the incident closes when the difference is gone."
            )
        case "quarantine":
            return (
                f"{node} is fenced as soon as the guards allow it, and stays so until you decide. {look} Then "
                f"`closeranks resync {node}` brings it back and verifies it, and `closeranks release {node}` lets it "
                f"serve again."
            )
        case "resync":
            return (
                f"You need not do anything now: {node} is fenced, brought back, verified and released by itself. Find "
                f"out who wrote there, or it comes again. {look} If `closeranks status` says that it waits for a "
                f"person: `closeranks release {node}`."
            )


def _blocked(node: str, look: str, at: Standing) -> str:
    """Why a suspect is not fenced, and what ends that."""
    match at.blocked_by:
        case "max_quarantined":
            return (
                f"{node} is still in service and waits for its fence: as many as max_quarantined = "
                f"{at.max_quarantined} are fenced already. Bring those back first: `closeranks status` names them. "
                f"{look}"
            )
        case "many_suspects":
            return (
                f"{node} is still in service: nothing is fenced by itself while so many differ at once. "
                f"`closeranks incidents --open` has the incident that says why. {look} If {node} is wrong: "
                f"`closeranks resync {node}`."
            )
        case "quorum_would_be_lost":
            return (
                f"{node} is still in service: without it no majority would be left. Bring the others back first: "
                f"`closeranks status` names them. {look}"
            )
        case _:
            return ""


def _fenced(node: str, look: str, at: Standing) -> str:
    again = "Find out who wrote there, or it comes again."
    stays = f"It stays fenced then, until `closeranks release {node}`."
    if at.recovering and at.trouble:
        return f"{node} is fenced, and {_waits(at)}"
    if at.recovering:
        end = "It is released by itself when it was read back from disk." if at.automatic else stays
        return (
            f"You need not do anything now: {node} is fenced and is being brought back; `closeranks nodes {node}` says "
            f"how far it is. {end} {again}"
        )
    if at.verified:
        return (
            f"{node} was brought back and read from disk again: it equals the truth, and is still fenced. "
            f"`closeranks release {node}` lets it serve again. {again}"
        )
    if at.automatic:
        return f"{node} is fenced, and is brought back and released by itself in a moment. {again}"
    who = "An operator fenced" if at.by_hand else "The judge fenced"
    return (
        f"{who} {node}: it is out of service, nothing on its disk was changed, and it stays so until you "
        f"decide. {look} `closeranks resync {node}` brings it back and verifies it, then `closeranks release {node}` "
        f"lets "
        f"it serve again."
    )


def _waits(at: Standing) -> str:
    return f"its way back waits: {at.trouble.rstrip('.')}. It goes on by itself when that is mended."


def audit(node: str, volume: str, policy: OnDivergence, at: Standing = NEWLY_NAMED) -> str:
    """Of a node whose disk is not what it reports."""
    if at.fenced and at.verified:
        fate = f"{node} is fenced. Its last proof was right: `closeranks release {node}` lets it serve again."
    elif at.fenced:
        fate = f"{node} is fenced and stays so until you decide: its own word is what is in doubt."
    else:
        fate = _blocked(node, f"See what it holds: `closeranks nodes {node}`.", at) or _audited(node, policy)
    return (
        f"What {node} reports of its files is not what lies on its disk: a stale or damaged index, a disk that gives "
        f"other bytes from time to time, an agent that was tampered with. {fate} Stop its agent, remove "
        f"volume-{volume}.sqlite* from its state_dir and start it again: it then reads every file anew, and what "
        f"differs is judged like any difference. Then `closeranks resync {node}` and `closeranks release {node}`. If "
        f"it fails again, the machine is not to be trusted: see its log and its disks."
    )


def _audited(node: str, policy: OnDivergence) -> str:
    soon = f"{node} is fenced as soon as the guards allow it"
    match policy:
        case "alert":
            stays = f"This volume only alerts: {node} keeps serving"
            return f"{stays}, and the incident closes when it proves what it failed."
        case "quarantine":
            return f"{soon}, and stays so until you decide."
        case "resync":
            return (
                f"{soon}. It is not released by itself: a node that does not tell what is on its disk can not vouch "
                f"for its own repair."
            )


def runaway(
    *, node: str, holds: Sequence[tuple[str, str]], volumes: Sequence[str], spreads: bool, merged: int, allow_s: float,
    first: str = "",
) -> str:  # fmt: skip
    """Of a node that guards hold. `holds` are (id, guard) of those that wait for a person.

    `spreads`: closeranks itself would have carried it to the others. `volumes`: those that are held, none: all of the
    node. `merged`: paths that were let through just before. `first`: what must be done before a reject, if
    anything.
    """
    where = (
        f"volume{'' if len(volumes) == 1 else 's'} {words.join(volumes)}" if volumes else "all its volumes"
    )
    held = f"Held is {where} of {node}; nothing else is."
    if spreads and merged:
        meaning = (
            f"{held} {words.plural(merged, 'change')} of {node} had been merged in the minutes before: they are "
            f"the truth now and a reject does not undo them. If they are part of it, restore them: what they replaced "
            f"lies in the trash of the other nodes (`closeranks trash list NODE`) or in a baseline. What is "
            f"held has reached no other node, and does not before you decide."
        )
    elif spreads:
        meaning = (
            f"{held} Nothing of it has reached another node, and nothing does before you decide; {node} goes on "
            f"serving what it has, and the others serve what was there before."
        )
    else:
        meaning = (
            f"closeranks spreads nothing; {node} has no vote and gives nothing there till you decide. {held}"
        )
    allow, reject = (
        words.join([f"`closeranks {verb} {hold}`" for hold, _ in holds], 8) for verb in ("allow", "reject")
    )
    guards = words.join(list(dict.fromkeys(guard for _, guard in holds)), 8)
    return (
        f"{meaning} If this is wanted (a deploy, an import, a clean-up): {allow} lets it through, and for "
        f"{words.human_duration(allow_s)} (`--for SECONDS`: for so long) the guard {guards} does not hold {node} "
        f"there again, whatever it does; other guards stay on. If not: stop the writer on {node}, then "
        f"{reject} fences {node}, brings it back to the truth, verifies and releases it; what it wrote lies in its "
        f"trash "
        f"then. {first}{' ' if first else ''}`closeranks held` shows what waits."
    )


def got_through(node: str, merged: int) -> str:
    """Of a hold that was, or may be, rejected: what came before it is not brought back."""
    return (
        f"{words.plural(merged, 'change')} of {node} from the minutes before {'was' if merged == 1 else 'were'} let "
        f"through to the other nodes, and a reject does not undo that. If some of it is part of this, restore it "
        f"from the other nodes' trash (`closeranks trash list NODE`) or from a backup."
    )


def make_room(node: str, disks: Sequence[str], of_state: bool) -> str:
    """Of a disk that fills while none of the node's changes is kept back: allow and reject make no room."""
    where = words.join(list(dict.fromkeys(disks)))
    what = (
        f"The agent of {node} keeps its state there, and knows nothing for certain without it. "
        if of_state
        else f"No change of {node} is kept back by it. "
    )
    return (
        f"{what}Free some room on {where} of {node}, and stop whatever fills it; `df -h` and `du -x -d 2` there say "
        f"what it is. You need not decide anything: it ends by itself half a minute after that."
    )


def trash_first(node: str) -> str:
    """Before a full disk is rejected, where the amount is not known: a file that still grows is in no view."""
    return (
        f"What does not fit into the trash (by default a tenth of the disk) must be removed by hand on {node} before "
        "a reject, or trash_max_bytes be raised."
    )


def trash_too_small(node: str, volume: str, size: int, most: int) -> str:
    """A reject of so much would wait for room in the trash."""
    return (
        f"A reject sets up to {words.human_bytes(size)} of {volume} aside, and the trash on {node} holds at most "
        f"{words.human_bytes(most)}: raise trash_max_bytes of {volume} in coordinator.toml first, or remove the file "
        f"by hand on {node}."
    )


def rejected(node: str, id: str, at: Standing) -> str:
    """Of a runaway that an operator has rejected and that is not over."""
    trash = f"What it wrote lies in its trash then: `closeranks trash list {node} --incident {id}`."
    if not at.fenced:
        return f"An operator rejected it. {node} is about to be released; you need not do anything. {trash}"
    if at.trouble:
        return f"An operator rejected it. {node} is fenced, and {_waits(at)} {trash}"
    if at.verified and not at.automatic:
        return (
            f"An operator rejected it. {node} was brought back and equals the truth; it stays fenced until "
            f"`closeranks release {node}`. {trash}"
        )
    if not at.recovering and not at.automatic:
        return (
            f"An operator rejected it, and {node} was fenced by hand since: `closeranks resync {node}` brings it back, "
            f"then `closeranks release {node}` lets it serve again. {trash}"
        )
    return (
        f"An operator rejected it: {node} is fenced, brought back to the truth, verified and released by itself; "
        f"`closeranks nodes {node}` says how far it is. If its writer still runs, stop it, or this comes again. {trash}"
    )


def undetermined(volume: str, voted: int, assigned: int, need: int) -> str:
    """Of paths without a quorum: `need` of `assigned` nodes must agree, `voted` have a vote."""
    cause = no_quorum(voted, assigned, need)
    if voted < need:
        mend = "Bring the missing nodes back: `closeranks status` names them."
    else:
        mend = (
            f"Compare nodes with each other, `closeranks diff {volume} NODE --against NODE`, decide which is right "
            f"and bring the others to it with your own tools. As soon as {need} nodes hold one entry it is the truth."
        )
    return (
        f"{cause} So nobody is accused and nothing is repaired in these paths; every node keeps what it has. {mend} "
        f"Everything else of the volume is still watched. The incident closes by itself when {need} nodes agree."
    )


def no_quorum(voted: int, assigned: int, need: int) -> str:
    """Why nobody can tell."""
    fleet = words.plural(assigned, "node")
    if voted < need:
        return f"Only {voted} of {fleet} can be compared, and {need} must agree."
    return f"{voted} of {fleet} were compared; {need} must hold the same entry, and no {need} do."


def many_suspects(volume: str | None, nodes: Sequence[str], max_quarantined: int) -> str:
    """Of more suspects at once than may be fenced."""
    first = nodes[0] if nodes else "NODE"
    return (
        f"When so many look wrong, the truth itself may be: a change that is being rolled out, a moved or unmounted "
        f"directory, a new ignore pattern. Fencing them all could take the service down, so this waits for you "
        f"(max_quarantined = {max_quarantined}). Look at one: `closeranks diff {volume or 'VOLUME'} {first}`. If it "
        f"is wrong, `closeranks resync {first}`, and so on, one after the other; `closeranks quarantine {first} "
        f"--reason TEXT` only fences. If the change is wanted, finish it on the other nodes, and set settle_s above "
        f"the time that your own replication needs."
    )


def recurrence(node: str, at: Standing) -> str:
    """Of what was put right and has come back."""
    if at.fenced and not at.automatic:
        waits = (
            f"Too much came back for {node} to be released by itself: `closeranks release {node}`, once its writer is "
            f"found."
        )
    else:
        waits = (
            f"After a few returns {node} is not released by itself any more: `closeranks release {node}`, once its "
            f"writer is found."
        )
    return (
        f"A repair that does not last means that something on {node} writes this again: a cron job, a deploy or copy "
        f"script, an application's cache, or an intruder. Who wrote each time stands in the timeline, as far as the "
        f"kernel told; stop that, then it ends. `closeranks nodes {node}` shows who writes most there. If the content "
        f"is right after all, bring it to the others the regular way. {waits} The incident closes when {node} "
        f"is released and nothing has come back for an hour."
    )
