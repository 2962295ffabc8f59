"""By what settings a tree is hashed: those of a fleet's volume, or of a manifest."""

from __future__ import annotations

import argparse

from closeranks_proto.digests import algorithm_named
from closeranks_proto.errors import CodecError, UserError
from closeranks_proto.limits import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

from .snapshot import How

TRACKED = ("mode", "owner", "mtime", "xattrs")


def how_of(args: argparse.Namespace) -> How:
    """The settings of the options. Raises UserError."""
    try:
        algorithm = algorithm_named(args.digest)
    except CodecError as error:
        raise UserError(f"--digest: {error}") from error
    chunk_bytes = args.chunk_bytes
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or chunk_bytes % MIN_CHUNK_BYTES:
        raise UserError(
            f"--chunk-bytes: a multiple of {MIN_CHUNK_BYTES} up to {MAX_CHUNK_BYTES}, not {chunk_bytes}"
        )
    track = tuple(word for word in args.track.split(",") if word)
    unknown = [word for word in track if word not in TRACKED]
    if unknown:
        raise UserError(f"--track: unknown: {', '.join(unknown)}; any of {','.join(TRACKED)}")
    return How(algorithm, chunk_bytes, track, tuple(args.ignore))
