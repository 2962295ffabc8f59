"""By what settings a tree is hashed: those of a fleet's volume, or of a manifest."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from closeranks_proto.digests import algorithm_named
from closeranks_proto.errors import CodecError, UserError
from closeranks_proto.limits import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

from .snapshot import How

TRACKED = ("mode", "owner", "mtime", "xattrs")


def how_of(args: argparse.Namespace) -> How:
    """The settings of the options, a volume's defaults where none is given. Raises UserError."""
    return how_from(
        args.digest if args.digest is not None else "xxh3-128",
        args.chunk_bytes if args.chunk_bytes is not None else 1 << 20,
        _words("mode" if args.track is None else args.track),
        args.ignore or [],
    )


def refuse_others(args: argparse.Namespace, how: How, manifest: str) -> None:
    """Raises UserError where an option asks for something else than what a manifest was made by.

    What is not in a manifest can not be compared, and nobody should take the answer for that of his question.
    """
    given = how_of(args)
    options = (
        ("--digest", args.digest, (given.algorithm.name,), (how.algorithm.name,)),
        ("--chunk-bytes", args.chunk_bytes, (str(given.chunk_bytes),), (str(how.chunk_bytes),)),
        ("--track", args.track, (",".join(sorted(given.track)),), (",".join(sorted(how.track)),)),
        ("--ignore", args.ignore, given.ignore, how.ignore),
    )
    for option, asked, wanted, made in options:
        if asked is not None and wanted != made:
            again = " ".join(f"{option} {shlex.quote(one)}" for one in wanted)
            raise UserError(
                f"{option}: {manifest} was made by {option} {' '.join(made) or '(none)'}, which is what can be "
                f"compared; leave {option} out, or make the manifest anew: closeranks hash --manifest FILE {again} PATH"
            )


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


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
