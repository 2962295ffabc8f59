"""The reading process as the scrub sees it: jobs in, answers out, one batch at a time."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import cast

from closeranks_proto.digests import DigestAlgorithm

from ..disk.channel import receive, send, start
from .reading import Answer, Job

ANSWER_MAX_S = 600.0  # a disk that takes longer for a batch is as good as dead; the tour tries again later


class Reader:
    """Raises OSError where the process can not be started or is gone."""

    def __init__(self, root_fd: int, algorithm: DigestAlgorithm, chunk_bytes: int) -> None:
        self._channel, self._process = start("closeranks_agent.scrub.reading")
        self._channel.settimeout(ANSWER_MAX_S)
        socket.send_fds(self._channel, [b"r"], [root_fd])
        send(self._channel, (algorithm.name, chunk_bytes))

    def read(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        send(self._channel, (list(jobs),))
        found = receive(self._channel)
        if found is None:
            raise ConnectionError("the process that reads for the scrub ended")
        return cast(Sequence[Answer], found[0])

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()
