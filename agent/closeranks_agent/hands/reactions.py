"""What a node does about a hold, where its owner allows it: pause the writing processes, freeze the volume."""

from __future__ import annotations

from collections.abc import Callable

from closeranks_proto import messages as wire


class Reactions:
    """Everything done here is shown, and undone when the hold ends."""

    def __init__(self, post: Callable[[wire.AgentMessage], None]) -> None:
        self._post = post

    async def take(self, message: wire.Hold | wire.Unhold) -> None:
        """Carry out a hold or its end, and answer."""
