"""What the API needs of the running coordinator, and what an answering function gets."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from closeranks_proto import messages as wire
from closeranks_proto.kinds import is_name

from ..config import CoordinatorConfig
from ..core.fleet import Fleet
from ..core.model import Event, Now, Refusal
from ..core.shapes import NodeView, VolumeView
from ..storage.store import Store
from .events import EventLog
from .metrics import Metrics

B = TypeVar("B", bound=msgspec.Struct)
BODY_MAX_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
# An order that can not be made durable (a full disk) is not waited for longer than a client waits.
ASK_TIMEOUT_S = 20.0
LIMIT_MAX, LIMIT_DEFAULT = 1000, 100
CURSOR_MAX = 8192
INTEGER_DIGITS_MAX = 12  # of a query parameter; Python itself refuses some thousands


class Core(Protocol):
    """The running coordinator, as far as the API is concerned."""

    @property
    def config(self) -> CoordinatorConfig: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def store(self) -> Store: ...
    @property
    def events(self) -> EventLog: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def ready(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...
    def now(self) -> Now: ...
    async def settled(self, step_max_s: float | None = None) -> bool: ...
    async def ask(self, event: Event) -> object: ...
    async def trash(
        self, node: str, message: wire.TrashList | wire.TrashRestore
    ) -> wire.TrashAnswer | None: ...
    async def reload(self) -> None: ...


class ApiError(Exception):
    """An answer of 400 or more, thrown where it is found out."""

    def __init__(self, status: int, code: str, message: str, detail: Any = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.detail = status, code, message, detail
        self.headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Param:
    """One query parameter. `kind`: string, integer or boolean."""

    name: str
    text: str
    kind: str = "string"
    choices: tuple[str, ...] = ()
    required: bool = False
    default: str | int | bool | None = None
    low: int | None = None
    high: int | None = None
    max_length: int = 256

    def read(self, given: str) -> str | int | bool:
        """The value, or ApiError 400."""
        match self.kind:
            case "integer":
                assert self.low is not None
                assert self.high is not None
                is_number = given.isascii() and given.isdigit() and len(given) <= INTEGER_DIGITS_MAX
                if not is_number or not self.low <= int(given) <= self.high:
                    raise self.refuse(f"a whole number from {self.low} to {self.high}")
                return int(given)
            case "boolean":
                if given not in ("true", "false"):
                    raise self.refuse("true or false")
                return given == "true"
        if self.choices and given not in self.choices:
            raise self.refuse("one of " + ", ".join(self.choices))
        if not given or len(given) > self.max_length or "\0" in given:
            raise self.refuse(f"1 to {self.max_length} characters")
        return given

    def refuse(self, wanted: str) -> ApiError:
        return ApiError(400, "bad_query", f"the query parameter {self.name} must be {wanted}")


LIMIT = Param("limit", "How many at most.", "integer", default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX)
CURSOR = Param("cursor", "`next_cursor` of the page before.", max_length=CURSOR_MAX)


@dataclass(frozen=True, slots=True)
class Call:
    """One request that a route has accepted: its query is read, its caller may do this."""

    core: Core
    request: web.Request
    query: Mapping[str, str | int | bool | None]

    @property
    def now(self) -> Now:
        return self.core.now()

    @property
    def limit(self) -> int:
        found = self.query["limit"]
        assert isinstance(found, int)
        return found

    def text(self, name: str) -> str | None:
        found = self.query[name]
        assert found is None or isinstance(found, str)
        return found

    def segment(self, name: str) -> str:
        """A part of the path. What is no name anywhere is simply not found."""
        return self.request.match_info[name]

    def node(self) -> NodeView:
        name = self.segment("node")
        found = self.core.fleet.node_view(self.now, name) if is_name(name) else None
        if found is None:
            raise ApiError(
                404,
                "unknown_node",
                f"no node {name!r} is in the fleet's configuration: `closeranks nodes` lists those that are",
            )
        return found

    def volume(self) -> VolumeView:
        name = self.segment("volume")
        found = self.core.fleet.volume_view(self.now, name) if is_name(name) else None
        if found is None:
            raise ApiError(
                404,
                "unknown_volume",
                f"no volume {name!r} is in the fleet's configuration: `closeranks status` lists those that are",
            )
        return found

    async def body(self, kind: type[B]) -> B:
        """The JSON body as `kind`; an absent one is an empty object. Raises ApiError."""
        request = self.request
        if request.content_type not in ("application/json", "application/octet-stream") or (
            request.can_read_body and request.content_type != "application/json"
        ):
            raise ApiError(415, "not_json", "the body must be JSON, with Content-Type: application/json")
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                data = await request.read()
        except TimeoutError:
            raise ApiError(408, "too_slow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
        except ConnectionError:  # nobody reads this answer, and it is no fault of ours
            raise ApiError(400, "bad_body", "the client left before its body had come") from None
        return decode_body(data, kind)

    async def ask(self, event: Event) -> object:
        """The core's answer to an order. Raises ApiError for its refusals."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answer = await self.core.ask(event)
        except TimeoutError:
            raise ApiError(
                503,
                "not_durable",
                f"no answer within {ASK_TIMEOUT_S:g} s: {self.core.problem or 'the coordinator is too busy'}. "
                "The order is queued and may still be carried out; look before you repeat it.",
            ) from None
        if isinstance(answer, Refusal):
            raise ApiError(answer.status, answer.code, answer.message)
        return answer


Endpoint = Callable[[Call], Awaitable[web.StreamResponse]]


# --- answers ---------------------------------------------------------------------------------------


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def error_answer(error: ApiError) -> web.Response:
    body = {"error": {"code": error.code, "message": error.message, "detail": error.detail}}
    found = answer(body, error.status)
    found.headers.update(error.headers)
    return found


def text_answer(text: str, status: int = 200, content_type: str = "text/plain") -> web.Response:
    return web.Response(text=text, status=status, content_type=content_type, charset="utf-8")


# --- lists -----------------------------------------------------------------------------------------

# Incidents can carry a thousand paths each, and nobody else is served while a page is made: it ends here, after 25 ms.
PAGE_MAX_BYTES = 8 * 1024 * 1024


def page(
    call: Call,
    ids: Sequence[str],
    view: Callable[[str], object | None],
    wanted: Callable[[Any], bool] | None = None,
    named: Callable[[str], bool] | None = None,
) -> web.Response:
    """One page of `ids` in their order, each shown by `view`; those that it does not know are passed over.

    `wanted` chooses by what is shown, `named` before it is made: a thousand large incidents take 0.7 s to show.
    """
    start = 0
    cursor = call.text("cursor")
    if cursor is not None:
        last = decode_cursor(cursor).decode("utf-8", "replace")
        if last not in ids:
            raise ApiError(
                400, "bad_cursor", "the cursor leads to an item that is gone; begin again without it"
            )
        start = list(ids).index(last) + 1
    items: list[msgspec.Raw] = []
    size = 0
    last_id = ""
    for identity in ids[start:]:
        if len(items) == call.limit or size > PAGE_MAX_BYTES:
            return _list_answer(items, encode_cursor(last_id.encode()))
        if named is not None and not named(identity):
            continue
        found = view(identity)
        if found is None or (wanted is not None and not wanted(found)):
            continue
        items.append(msgspec.Raw(msgspec.json.encode(found)))
        size += len(bytes(items[-1]))
        last_id = identity
    return _list_answer(items, None)


def _list_answer(items: list[msgspec.Raw], next_cursor: str | None) -> web.Response:
    return answer({"items": items, "next_cursor": next_cursor})


def encode_cursor(position: bytes) -> str:
    return base64.urlsafe_b64encode(position).decode("ascii").rstrip("=")


def decode_body(data: bytes, kind: type[B]) -> B:
    """A JSON body as `kind`; none is an empty object. Raises ApiError."""
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, "bad_body", f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "bad_json", f"the body is not JSON: {error}") from None


def decode_cursor(cursor: str) -> bytes:
    """The position that a cursor of ours stands for. Raises ApiError."""
    try:
        position = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "bad_cursor", "the cursor is not one that this API gave") from None
    if encode_cursor(position) != cursor:
        raise ApiError(400, "bad_cursor", "the cursor is not one that this API gave")
    return position
