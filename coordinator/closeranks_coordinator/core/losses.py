"""What went of a volume: when it is believed to be gone, and when its removal may be spread.

A step has 512 changes at most. So of a directory that got another name the old paths come first, and the new ones
some steps later, in a storm with the scan behind it: in between it looks like a deletion. *Much* that went is
believed when the node has said that all it had been told of by then is committed (its watcher's proof, or a scan).
It is asked for that at once; nothing is spread meanwhile, so waiting costs no other node anything.

Rejected: longer pauses (a rename of 100,000 paths takes as long as it takes), renames as one step (a step has a
bound, and a scan meets the old name long before the new one).
"""

from __future__ import annotations

from . import currency
from .meters import Meter
from .nodes import Node, Volume
from .sprees import HANDFUL
from .world import World

LOSS_QUIET_S = 0.5  # after the last path that went, until deletions are spread
STORM_MAX_S = 120.0  # as long as a node may say that the rest comes when its storm is over
PROOF_MAX_S = STORM_MAX_S  # as long as a proof is waited for: in a storm there is none before its end


def is_storm(node: Node, volume: Volume) -> bool:
    """Whether so much is written there that its agent listens in samples: what it committed is only the beginning."""
    status = node.volume(volume.name).status
    return status is not None and status.storm


def are_proven(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether more is gone than is ever deleted at once, and no more of it is about to come back under another name."""
    now = world.now.mono
    if meter.over_loss is None:
        meter.over_loss = now
    if now - meter.over_loss >= PROOF_MAX_S or currency.is_current(node, volume, meter.over_loss):
        return True
    currency.ask(world, volume, node)
    world.wake(meter.over_loss + PROOF_MAX_S)
    return False


def are_over(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether nothing is going, or what went has gone: a deletion that has only begun looks like a small one.

    Deletions wait for LOSS_QUIET_S after the last, more than a handful for a proof too where somebody watches, much of
    them everywhere, for `observe_s` at most; from then on
    they flow as long as they are no faster than twice that. Who deletes faster than could never trip the guard has to
    rest as well, or to have paid (`sprees`): a loop of single deletions had spread a fifth of a volume before it was
    held. What is only renamed is no loss once its other half has come.
    """
    rules = volume.config.guards
    now, lost = world.now.mono, meter.lost - meter.lost_before
    if lost <= 2 * meter.cleared_losses * max(1.0, now - meter.passed_at):
        meter.losing = None
        return lost <= 0 or _is_paid(world, volume, meter)
    if meter.losing is None:
        meter.losing = now
    passed, observe_s = now - meter.losing, rules.observe_s
    if passed < STORM_MAX_S and is_storm(node, volume):
        world.wake(now + LOSS_QUIET_S)
        return False
    if passed >= observe_s:
        if not _is_paid(world, volume, meter):
            return False
        meter.cleared_losses = lost / max(1.0, passed)
        return True
    if now - meter.lost_at < min(LOSS_QUIET_S, observe_s):
        world.wake(min(meter.lost_at + LOSS_QUIET_S, meter.losing + observe_s))
        return False
    is_much = lost >= rules.share_min_paths
    if not (is_much or (lost > HANDFUL and currency.is_watched(node, volume))) or currency.is_current(
        node, volume, meter.lost_at
    ):
        return _is_paid(world, volume, meter)
    currency.ask(world, volume, node)
    world.wake(meter.losing + observe_s)
    return False


def _is_paid(world: World, volume: Volume, meter: Meter) -> bool:
    """Whether what went is no more than time has paid for, or whoever removed it rests."""
    rules, now = volume.config.guards, world.now.mono
    most = max(rules.share_min_paths, rules.deleted_share * meter.shares.others(now))
    pace = most / rules.share_window_s
    due = meter.going.due(now, meter.lost, pace, meter.lost_at, rules.observe_s, rules.share_window_s)
    if due is not None:
        world.wake(due)
    return due is None
