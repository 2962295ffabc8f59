"""Asking the coordinator over its HTTP API, and saying clearly why no answer came.

`http.client` and not aiohttp: it imports in a third of the time and a command asks one thing after
another. No proxy from the environment is used: an operator's order goes where --url says. Answers are
bounded, whatever the other side sends.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.kinds import is_loopback
from closeranks_proto.lines import printable, shortened

T = TypeVar("T")
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # a page of 1,000 incidents with 1,000 paths each stays below
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
PAGE = 1000
MAX_PAGES = 100_000  # a cursor that leads in a circle ends here


class NotAsked(UserError):
    """The question did not reach a coordinator, or no usable answer came back."""


class Refused(CloseranksError):
    """The coordinator understood and said no. `code` is the API's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class ErrorBody(msgspec.Struct):
    code: str
    message: str
    detail: Any = None


class ErrorAnswer(msgspec.Struct):
    error: ErrorBody


class Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


class Api:
    """One coordinator. `now_ms` is its clock as of the last answer, so that ages need no common clock."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self.token = token
        self._host, self._port = parts.hostname or "", parts.port
        self._secure = parts.scheme == "https"
        self._connection: http.client.HTTPConnection | None = None
        self.now_ms: int | None = None

    @property
    def token_in_clear(self) -> bool:
        return self.token is not None and not self._secure and not is_loopback(self._host)

    def get(self, path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        """The body of a 200. Raises Refused or NotAsked."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return self._ask("GET", path + ("?" + urlencode(given) if given else ""), None)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of a 2xx. Raises Refused or NotAsked."""
        return self._ask(method, path, msgspec.json.encode({} if body is None else body))

    def decode(self, body: bytes, kind: type[T]) -> T:
        """The answer as `kind`. Raises NotAsked where it has another shape."""
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotAsked(
                f"{self.url} answered something that this program does not understand ({printable(str(error))}). "
                "Is a closeranks coordinator listening there, and of the same version as this program?"
            ) from None

    def pages(self, path: str, query: Mapping[str, str | None], kind: type[T]) -> Iterator[T]:
        """Page after page of a list, as the cursor leads."""
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = self.decode(self.get(path, {**query, "limit": str(PAGE), "cursor": cursor}), kind)
            yield page
            following = getattr(page, "next_cursor", None)
            if following is None:
                return
            if following == cursor:
                break
            cursor = following
        raise NotAsked(f"{self.url}{path}: the list does not end; the coordinator repeats itself")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, target: str, body: bytes | None) -> bytes:
        headers = {"Accept": "application/json", "User-Agent": "closeranks"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            status, data = self._exchange(method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NotAsked(self._no_answer(error)) from None
        if 200 <= status < 300:
            return data
        raise self._refusal(status, data)

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """One request. A kept connection that the other side has closed is opened again, for GET only."""
        reused = self._connection is not None
        try:
            return self._once(method, target, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.close()
            if not reused or method != "GET":
                raise
            return self._once(method, target, body, headers)

    def _once(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._open()
        self._connection.request(method, target, body=body, headers=headers)
        answer = self._connection.getresponse()
        data = answer.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            self.close()
            raise NotAsked(f"{self.url}{target} answered more than {MAX_ANSWER_BYTES} bytes; refused")
        if answer.length:
            raise http.client.IncompleteRead(data, answer.length)
        self._note_clock(answer.getheader("Date"))
        if answer.will_close or method != "GET":
            self.close()
        return answer.status, data

    def _open(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        return connection

    def _note_clock(self, date: str | None) -> None:
        try:
            self.now_ms = None if date is None else int(parsedate_to_datetime(date).timestamp() * 1000)
        except (ValueError, TypeError, OverflowError):
            self.now_ms = None

    def _refusal(self, status: int, data: bytes) -> CloseranksError:
        if 300 <= status < 400:
            return NotAsked(
                f"{self.url} answered {status}, a redirection; name the coordinator itself with --url"
            )
        try:
            body = msgspec.json.decode(data, type=ErrorAnswer).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            beginning = shortened(printable(data[:200].decode("utf-8", "replace")), 120)
            return NotAsked(
                f"{self.url} answered HTTP {status} ({beginning or 'empty'}), not as a coordinator would. "
                "Is --url the coordinator's listen_api?"
            )
        if status == 403:
            return NotAsked(f"{self.url} refused: {printable(body.message)}")
        if body.code == "wrong_port":
            return NotAsked(
                f"{self.url} is the coordinator's listen_agents, where agents dial in. Name its listen_api (by default "
                "port 7341) with --url or CLOSERANKS_URL."
            )
        if status == 401:
            if self.token:
                then = (
                    "The file that --token-file or CLOSERANKS_TOKEN_FILE names must hold the same token as one of "
                    "token_files in coordinator.toml; a coordinator reads them at its start and at a reload."
                )
            else:
                then = "Name the file that holds it with --token-file FILE or CLOSERANKS_TOKEN_FILE."
            return NotAsked(f"{self.url} refused: {printable(body.message)}. {then}")
        return Refused(status, body.code, body.message)

    def _no_answer(self, error: Exception) -> str:
        where = f"no coordinator at {self.url}"
        elsewhere = "name its listen_api with --url or CLOSERANKS_URL"
        match error:
            case ssl.SSLError():
                reason = printable(error.reason or str(error))
                return f"{where}: TLS failed: {reason}. Is it http:// there? Else {elsewhere}."
            case socket.gaierror():
                return f"{where}: the host name is not known ({error.strerror}). Check the spelling, or {elsewhere}."
            case ConnectionRefusedError():
                return (
                    f"{where}: connection refused. Start it (closeranks coordinator --config FILE); "
                    f"if it listens elsewhere, {elsewhere}."
                )
            case http.client.IncompleteRead() | ConnectionResetError():
                return (
                    f"{self.url} broke the connection before its answer was complete. It may be restarting: ask "
                    f"again; or another program has that port: {elsewhere}."
                )
            case TimeoutError():
                return (
                    f"{where}: no answer in time. The machine is down, a firewall drops the packets, or the "
                    f"coordinator is overloaded; if it listens elsewhere, {elsewhere}."
                )
            case OSError():
                reason = printable(error.strerror or str(error) or type(error).__name__)
                return f"{where}: {reason}. If it listens elsewhere, {elsewhere}."
            case _:
                return (
                    f"{self.url} does not speak HTTP as expected ({type(error).__name__}). It may be listen_agents "
                    f"or another program's port; {elsewhere}."
                )


def segment(name: str) -> str:
    """One path segment of a URL."""
    return quote(name, safe="")
