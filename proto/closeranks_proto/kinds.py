"""What configuration values may be: names, numbers, paths, addresses, each with its words for people.

Every kind says what is wrong with a value and what is allowed. Nothing here touches the file system or
the network: that a path exists or an address answers is the doctor's business.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import posixpath
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from .lines import printable
from .settings import Invalid, Kind

T = TypeVar("T")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
AGENTS_PORT = 7340  # where agents dial when the URL names no port


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to dial. `host` without brackets; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def concrete(self) -> bool:
        """Whether the host is one that others can dial: not `0.0.0.0`, not `::`."""
        return not _is_ip(self.host, "is_unspecified")

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def is_name(text: str) -> bool:
    """Whether `text` can name a node, a volume or a baseline."""
    return _NAME.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` (no brackets) can only mean this machine."""
    return host.lower().rstrip(".") == "localhost" or _is_ip(host, "is_loopback")


# What a proxy adds to a request that it hands on: whoever asked is not who is connected.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def was_forwarded(headers: Container[str]) -> bool:
    """Whether a request came by way of a proxy, as far as that says so."""
    return any(name in headers for name in FORWARDED)


def parse_address(text: str) -> Address:
    """`host:port` or `[v6]:port`. Raises Invalid with the reason."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise Invalid("no port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise Invalid(f"[{printable(host)}] is not an IPv6 address") from None
    elif ":" in host:
        raise Invalid("an IPv6 address must stand in brackets, like [::1]:7340")
    elif not host:
        raise Invalid("no host; every interface is 0.0.0.0 or [::]")
    elif not _good_host(host):
        raise Invalid(f"{printable(host)} is neither an IP address nor a host name")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535 and len(port) <= 5):
        raise Invalid(f"port {printable(port) or 'missing'} is not a number from 0 to 65535")
    return Address(host, int(port))


def parse_base_url(text: str, default_port: int | None = None) -> tuple[str, str]:
    """(URL without a trailing slash, host) of `http[s]://host[:port]`. Raises Invalid with the reason."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Invalid(printable(str(error))) from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https"):
        raise Invalid("it must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise Invalid("credentials do not belong into a URL")
    if parts.query or parts.fragment or parts.path not in ("", "/"):
        raise Invalid("it must end after the port: no path, no query")
    if not host or not (":" in host or _good_host(host)):
        raise Invalid("no usable host")
    if port == 0:
        raise Invalid("port 0 can not be dialled")
    if port is None and default_port is not None:
        port = default_port
    shown_host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown_host}" + ("" if port is None else f":{port}"), host


def text(allowed: str, max_length: int = 4096) -> Kind[str]:
    def accept(value: object) -> str:
        found = _string(value)
        if not found.strip():
            raise Invalid("empty")
        if len(found.encode("utf-8", "surrogatepass")) > max_length:
            raise Invalid(f"longer than {max_length} bytes")
        return found

    return Kind(allowed, accept)


def name(what: str) -> Kind[str]:
    """A node's, volume's or baseline's name."""

    def accept(value: object) -> str:
        found = _string(value)
        if not is_name(found):
            raise Invalid(_why_no_name(found))
        return found

    return Kind(f"a {what}'s name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit", accept)


def integer(low: int, high: int, unit: str = "") -> Kind[int]:
    def accept(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid("not a whole number" + _quoted_hint(value))
        if not low <= value <= high:
            raise Invalid("too small" if value < low else "too large")
        return value

    return Kind(f"a whole number from {low} to {high}{unit and ' ' + unit}", accept, _parse_number)


def number(low: float, high: float, unit: str = "s") -> Kind[float]:
    """A float; TOML integers are welcome, NaN and infinities are not."""

    def accept(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Invalid("not a number" + _quoted_hint(value))
        if not low <= value <= high or not math.isfinite(value):  # in this order: an int may be no float
            raise Invalid(
                "too small" if value < low else "too large" if value > high else "not a finite number"
            )
        return float(value)

    return Kind(f"a number from {low:g} to {high:g} {unit}".rstrip(), accept, _parse_number)


def scrub_interval() -> Kind[float]:
    """From the start of one tour to the start of the next."""
    return number(0, 366 * 86400, "s (0: only on demand)")


def scrub_bytes() -> Kind[int]:
    return integer(0, 2**50, "bytes per second (0: no limit)")


def scrub_files() -> Kind[int]:
    return integer(0, 10**7, "files per second (0: no limit)")


def boolean() -> Kind[bool]:
    def accept(value: object) -> bool:
        if not isinstance(value, bool):
            raise Invalid("not a boolean" + _quoted_hint(value))
        return value

    def parse(given: str) -> object:
        lowered = given.strip().lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else given

    return Kind("true or false", accept, parse)


def choice(
    options: tuple[str, ...], later: Mapping[str, str] | None = None, explained: str = ""
) -> Kind[str]:
    """One of `options`; `later` gives the reason for values that are known but not to be had."""

    def accept(value: object) -> str:
        found = _string(value)
        if found in options:
            return found
        if later is not None and found in later:
            raise Invalid(later[found])
        near = difflib.get_close_matches(found.lower(), options, 1, 0.6)
        raise Invalid(f"unknown; did you mean {near[0]!r}?" if near else "unknown")

    listed = " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
    return Kind(listed + (f" ({explained})" if explained else ""), accept)


def many(of: Kind[T], low: int = 0, high: int = 4096) -> Kind[tuple[T, ...]]:
    """An array of `of`; in a flag or variable the elements are separated by commas."""

    def accept(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Invalid("not an array" + (f"; write [{value!r}]" if isinstance(value, str) else ""))
        if not low <= len(value) <= high:
            raise Invalid("too few elements" if len(value) < low else "too many elements")
        found = []
        for position, item in enumerate(value, 1):
            try:
                found.append(of.accept(item))
            except Invalid as error:
                raise Invalid(f"element {position} ({printable(str(item))[:80]}): {error}") from None
        return tuple(found)

    def parse(given: str) -> object:
        return [of.parse(part.strip()) for part in given.split(",") if part.strip()]

    return Kind(f"an array, each element: {of.allowed}", accept, parse)


def distinct(of: Kind[tuple[T, ...]]) -> Kind[tuple[T, ...]]:
    """The same array, with each element at most once."""

    def accept(value: object) -> tuple[T, ...]:
        found = of.accept(value)
        seen: set[T] = set()
        for item in found:
            if item in seen:
                raise Invalid(f"{printable(str(item))!r} is listed twice")
            seen.add(item)
        return found

    return Kind(of.allowed + ", none twice", accept, of.parse)


def absolute_path(what: str) -> Kind[str]:
    """An absolute path, normalised without looking at the disk; never `/` itself."""

    def accept(value: object) -> str:
        found = _string(value)
        if "\0" in found:
            raise Invalid("a path has no NUL")
        if found.startswith("~"):
            raise Invalid("~ is not expanded here")
        if not found.startswith("/"):
            raise Invalid("not an absolute path")
        normal = "/" + posixpath.normpath(found).lstrip("/")
        if normal == "/":
            raise Invalid("the root of the file system can not be it")
        if len(normal.encode("utf-8", "surrogateescape")) > 3500:
            raise Invalid("longer than 3500 bytes")
        return normal

    return Kind(f"the absolute path of {what}", accept)


def address(example: str, dialled: bool = False) -> Kind[Address]:
    """An address to listen on; with `dialled` one that others can dial."""

    def accept(value: object) -> Address:
        found = parse_address(_string(value))
        if dialled and not found.concrete:
            raise Invalid("nobody can dial an unspecified address")
        if dialled and found.port == 0:
            raise Invalid("nobody can dial port 0")
        return found

    tail = "" if dialled else "; port 0 takes a free one"
    return Kind(f"host:port, like {example} or [::1]:{example.rpartition(':')[2]}{tail}", accept)


def base_url(example: str, default_port: int) -> Kind[str]:
    def accept(value: object) -> str:
        return parse_base_url(_string(value), default_port)[0]

    return Kind(f"a URL like {example} (port {default_port} where none is given)", accept)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise Invalid("not a string; write it in quotes")
    return value


def _quoted_hint(value: object) -> str:
    return "; write it without quotes" if isinstance(value, str) else ""


def _parse_number(given: str) -> object:
    try:
        return int(given)
    except ValueError:
        try:
            return float(given)
        except ValueError:
            return given


def _why_no_name(found: str) -> str:
    if not found:
        return "empty"
    if len(found) > 63:
        return f"{len(found)} characters"
    if is_name(found.lower()):
        return f"capital letters; write {found.lower()!r}"
    return "a character that names can not have"


def _good_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host.replace(".", "").isdigit():
            return False  # 300.1.1.1: digits and dots that are no address
        labels = host.removesuffix(".").split(".")
        return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    return True


def _is_ip(host: str, aspect: str) -> bool:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return bool(getattr(found, aspect))
