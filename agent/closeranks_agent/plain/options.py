"""By what settings a tree is hashed: those of a fleet's volume, or of a manifest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from closeranks_proto.digests import algorithm_named
from closeranks_proto.errors import CodecError, UserError
from closeranks_proto.limits import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

from .snapshot import How

TRACKED = ("mode", "owner", "mtime", "xattrs")


def how_of(args: argparse.Namespace) -> How:
    """The settings of the options. Raises UserError."""
    track = [word for word in args.track.split(",") if word]
    return how_from(args.digest, args.chunk_bytes, track, args.ignore)


def how_from(digest: str, chunk_bytes: int, track: Sequence[str], ignore: Sequence[str]) -> How:
    """These settings, if a volume may have them. Raises UserError, which names the option."""
    try:
        algorithm = algorithm_named(digest)
    except CodecError as error:
        raise UserError(f"--digest: {error}") from error
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or chunk_bytes % MIN_CHUNK_BYTES:
        raise UserError(
            f"--chunk-bytes: a multiple of {MIN_CHUNK_BYTES} up to {MAX_CHUNK_BYTES}, not {chunk_bytes}"
        )
    unknown = [word for word in track if word not in TRACKED]
    if unknown:
        raise UserError(f"--track: unknown: {', '.join(unknown)}; any of {','.join(TRACKED)}")
    return How(algorithm, chunk_bytes, tuple(track), tuple(ignore))
