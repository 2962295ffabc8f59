"""Frames: one message each, msgpack, bounded before and while it is decoded.

Types drive the decoder: every element is checked against its message's type before it is made, and every
array's and text's length against its limit, so that neither a header which claims four thousand million
elements nor a frame full of nested arrays costs memory. Rejected: decoding to plain values first and
converting them. Eight megabytes of nested arrays became 235, and text passed for bytes as base64.
Whatever is wrong raises CodecError.
"""

from __future__ import annotations

from typing import TypeVar

import msgpack
import msgspec

from .errors import CodecError
from .limits import FRAME_MAX_ITEMS, MAX_FRAME_BYTES, MAX_OBJECT_BYTES, MAX_TEXT_BYTES
from .messages import Activity, AgentMessage, CoordinatorMessage, Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)
_ENCODER = msgspec.msgpack.Encoder()
_AGENT: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_ACTIVITY = Activity.__struct_config__.tag
_COORDINATOR: msgspec.msgpack.Decoder[CoordinatorMessage] = msgspec.msgpack.Decoder(CoordinatorMessage)


def encode_message(message: Message) -> bytes:
    """The frame of one message. Raises CodecError where it would be longer than a receiver accepts."""
    frame = _ENCODER.encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise CodecError(
            f"a {type(message).__name__} of {len(frame)} bytes exceeds the frame limit of {MAX_FRAME_BYTES}"
        )
    return frame


def clipped(message: M) -> M:
    """The message with every text in it fit to be sent: not longer than allowed, and well-formed.

    For those with words for people in them: a path of 4,095 bytes may be escaped to four times as much, and
    an answer that its receiver refuses would be no answer.
    """
    changes = {
        name: fit
        for name in message.__struct_fields__
        if (fit := _fit(value := getattr(message, name))) is not value
    }
    return msgspec.structs.replace(message, **changes) if changes else message


def _fit(value: object) -> object:
    match value:
        case str():
            text = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
            text = text if len(text) <= MAX_TEXT_BYTES else text[: MAX_TEXT_BYTES - 1] + "…"
            return value if text == value else text
        case Message():
            return clipped(value)
        case tuple():
            fit = tuple(map(_fit, value))
            return fit if any(one is not old for one, old in zip(fit, value, strict=True)) else value
        case _:
            return value


def decode_agent_message(frame: bytes) -> AgentMessage:
    """What an agent sent. Raises CodecError."""
    return _decode(frame, _AGENT)


def tells_activity(frame: bytes) -> bool:
    """Whether an Activity is in this frame, if anything is: by its first two bytes."""
    return len(frame) > 1 and frame[0] & 0xF0 == 0x90 and frame[1] == _ACTIVITY


def decode_coordinator_message(frame: bytes) -> CoordinatorMessage:
    """What the coordinator sent. Raises CodecError."""
    return _decode(frame, _COORDINATOR)


def _decode(frame: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    if len(frame) > MAX_FRAME_BYTES:
        raise CodecError(f"a frame of {len(frame)} bytes where at most {MAX_FRAME_BYTES} are allowed")
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a message: {error}") from error


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
