"""The error families of both sides.

`ProtocolError`: the peer broke the protocol; its session is dropped, nothing of it is believed.
`UserError`: somebody gave us something unusable; the text names it and says what is allowed.
What the world does (ENOSPC, EIO, time-outs) stays `OSError` and becomes an event where it is met.
What only our own bug can cause is an `assert`.
"""

from __future__ import annotations


class CloseranksError(Exception):
    """Base of every error that closeranks raises on purpose. `str()` is fit for an operator's eyes."""


class ProtocolError(CloseranksError):
    """A peer sent what the protocol does not allow."""


class CodecError(ProtocolError):
    """Bytes that are truncated, oversized, wrongly typed, not canonical or of an unknown version."""


class PathError(ProtocolError, ValueError):
    """A path or key that can not name an entry below a volume's root."""


class MissingObject(CloseranksError):
    """A page or chunk list that is not at hand. `digest` says which."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"object {digest.hex()} is not at hand")
        self.digest = digest


class DamagedObject(MissingObject):
    """An object whose stored bytes do not have its digest any more: as good as missing, and nobody's lie."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(digest)
        self.args = (f"the stored object {digest.hex()} is damaged: its bytes have another digest",)


class UserError(CloseranksError):
    """A mistake in configuration, arguments or set-up; the text says which, and what is allowed."""
