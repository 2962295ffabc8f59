"""Frames: one message each, msgpack, bounded before and while it is decoded.

`msgpack` reads the bytes with every length limited, so that a header which claims four thousand million
elements costs nothing; `msgspec` then checks types and counts. Whatever is wrong raises CodecError.
"""

from __future__ import annotations

import msgpack
import msgspec

from .errors import CodecError
from .limits import FRAME_MAX_ITEMS, MAX_FRAME_BYTES, MAX_OBJECT_BYTES, MAX_TEXT_BYTES
from .messages import AgentMessage, CoordinatorMessage, Message

_ENCODER = msgspec.msgpack.Encoder()


def encode_message(message: Message) -> bytes:
    """The frame of one message. Raises CodecError where it would be longer than a receiver accepts."""
    frame = _ENCODER.encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise CodecError(f"a {type(message).__name__} of {len(frame)} bytes exceeds the frame limit of {MAX_FRAME_BYTES}")
    return frame


def decode_agent_message(frame: bytes) -> AgentMessage:
    """What an agent sent. Raises CodecError."""
    found: AgentMessage = _decode(frame, AgentMessage)
    return found


def decode_coordinator_message(frame: bytes) -> CoordinatorMessage:
    """What the coordinator sent. Raises CodecError."""
    found: CoordinatorMessage = _decode(frame, CoordinatorMessage)
    return found


def _decode(frame: bytes, union: object) -> object:
    try:
        return msgspec.convert(unpack_bounded(frame, MAX_FRAME_BYTES), union)
    except msgspec.ValidationError as error:
        raise CodecError(f"message of the wrong shape: {error}") from error


def unpack_bounded(frame: bytes, max_bytes: int, max_items: int = FRAME_MAX_ITEMS) -> object:
    """One msgpack value of at most `max_bytes`, arrays of at most `max_items`, no maps, no extensions.

    Raises CodecError for anything else, for trailing bytes and for truncation.
    """
    if len(frame) > max_bytes:
        raise CodecError(f"{len(frame)} bytes where at most {max_bytes} are allowed")
    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            use_list=False,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=MAX_OBJECT_BYTES,
            max_array_len=max_items,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise CodecError(f"not a well-formed frame: {error or type(error).__name__}") from error
