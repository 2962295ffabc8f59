"""Operators' tokens: one secret a file, never in a command line, an environment or a configuration."""

from __future__ import annotations

import os

from closeranks_proto.errors import UserError
from closeranks_proto.lines import printable

MAX_TOKEN_BYTES = 1024
MIN_TOKEN_BYTES = 16
_OTHERS = 0o027  # group may read (a service account), nobody else anything


def read_secret(file: str) -> str:
    """The token in `file`. Raises UserError where it is missing, empty, weak or open to others."""
    shown = printable(file)
    try:
        with open(file, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(MAX_TOKEN_BYTES + 2)
    except OSError as error:
        raise UserError(f"{shown} can not be read: {error.strerror or type(error).__name__}") from None
    if mode & _OTHERS:
        raise UserError(f"{shown} is open to others (mode {mode & 0o7777:04o}); run: chmod 600 {shown}")
    try:
        secret = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise UserError(f"{shown} holds bytes that no token has; a token is printable ASCII") from None
    if not secret:
        raise UserError(f"{shown} is empty; write one token into it, like: openssl rand -hex 32 > {shown}")
    if not secret.isprintable() or " " in secret:
        raise UserError(f"{shown} holds more than one word; a file holds one token")
    if not MIN_TOKEN_BYTES <= len(secret) <= MAX_TOKEN_BYTES:
        raise UserError(
            f"{shown}: a token has {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES} characters, not {len(secret)}"
        )
    return secret
