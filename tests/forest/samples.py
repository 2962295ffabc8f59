"""One well-formed value of every message, made from the messages' own types."""

from __future__ import annotations

import random
import typing

import msgspec
from msgspec import inspect

from closeranks_proto.messages import AgentMessage, CoordinatorMessage, Message


def message_types() -> list[type[Message]]:
    """Every message of both directions, by tag."""
    found = {*typing.get_args(AgentMessage), *typing.get_args(CoordinatorMessage)}
    return sorted(found, key=lambda kind: kind.__struct_config__.tag)


def sample(kind: type[Message], rng: random.Random) -> Message:
    """A message with every part filled in, the same for the same state of `rng`."""
    return msgspec.convert(_value(inspect.type_info(kind), rng), kind)


def _value(kind: inspect.Type, rng: random.Random) -> object:
    match kind:
        case inspect.BytesType():
            return rng.randbytes(rng.randrange(1, 20))
        case inspect.StrType():
            return "".join(rng.choice("abc \u00e9\u6f22") for _ in range(rng.randrange(8)))
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.IntType(le=most):
            return rng.choice([0, 1, 127, 200, 70_000, 2**40, most or 2**63 - 1])
        case inspect.FloatType():
            return rng.randrange(1000) / 8
        case inspect.LiteralType(values=allowed):
            return rng.choice(allowed)
        case inspect.UnionType(types=types):
            present = [one for one in types if not isinstance(one, inspect.NoneType)]
            return None if rng.random() < 0.3 else _value(rng.choice(present), rng)
        case inspect.VarTupleType(item_type=item):
            return [_value(item, rng) for _ in range(rng.randrange(4))]
        case inspect.TupleType(item_types=items):
            return [_value(item, rng) for item in items]
        case inspect.StructType(fields=fields, tag=tag):
            values = [_value(field.type, rng) for field in fields]
            return values if tag is None else [tag, *values]
        case inspect.Metadata(type=inner):
            return _value(inner, rng)
    raise AssertionError(f"a message has a part of unforeseen type {kind}")
