"""Open files: each agent's session is one, and many systems give a process 1,024 unless it asks for more."""

from __future__ import annotations

import resource

# Beside sessions: the store and its WAL, the event loop, callers of the API, streams of events.
BESIDE_SESSIONS = 256


def raise_limit(nodes: int) -> str | None:
    """Take as many open files as the system allows; in words what is wrong where that is too few for the fleet.

    A node needs two: its session, and for a moment the one that replaces it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, _needed(nodes))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY or soft >= _needed(nodes):
        return None
    return (
        f"this process may open {soft} files, and a fleet of {nodes} nodes needs {_needed(nodes)}: some agents will "
        f"not get a session. Set LimitNOFILE={_needed(nodes)} in the systemd unit, or `ulimit -n` where it is started."
    )


def _needed(nodes: int) -> int:
    return 2 * nodes + BESIDE_SESSIONS
