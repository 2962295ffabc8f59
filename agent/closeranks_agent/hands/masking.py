"""A command line for people to read: on one line, bounded, and without the passwords that stand in it.

What is masked: values of names that speak of secrets (`--password=...`, `token=...`, `--api-key ...`), the
password in a URL, an authorization header, and the two programs whose short option is a password. A secret
under a name of its own can not be told from any other word.
"""

from __future__ import annotations

import re

from closeranks_proto.lines import printable

MASK = "***"
_SECRET = (
    r"(?:passw(?:or)?d|passphrase|secret|token|credential|api[-_.]?key|access[-_.]?key|private[-_.]?key"
    r"|(?<![a-z0-9])(?:pass|pwd|psk)(?![a-z0-9]))"
)
# Every repetition is bounded: a command line that was made for it must not cost the watcher's time.
_NAME = rf"[\w.-]{{0,64}}?{_SECRET}[\w.-]{{0,64}}"
_OPTION = re.compile(rf"^--?{_NAME}$", re.IGNORECASE)
_WHOLE = re.compile(rf"^(--?{_NAME}=).+$", re.IGNORECASE | re.DOTALL)
_WITHIN = re.compile(
    rf"""({_SECRET}[\w.-]{{0,64}}["']?\s{{0,4}}[=:]\s{{0,4}}["']?)[^\s&'",;]+""", re.IGNORECASE
)
_FOLLOWS = re.compile(rf"((?:^|\s)--{_NAME}\s{{1,4}})(?!-)[^\s'\"]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,256}):[^\s/]{0,1024}@", re.IGNORECASE)
_URL_TOKEN = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/:@]{16,1024}@", re.IGNORECASE)
_HEADER = re.compile(r"(authorization\s{0,4}:\s{0,4}).+", re.IGNORECASE | re.DOTALL)
_MAY_HIDE = re.compile(r"[=:@\s]")
_SHORT_PASSWORD = re.compile(r"(?:^|/)(?:mysql\w*|mariadb[\w-]*|sshpass)$")


def command_of(arguments: list[str], limit_bytes: int) -> str:
    """The arguments as one printable line of at most `limit_bytes` in UTF-8."""
    shown: list[str] = []
    short = bool(arguments) and _SHORT_PASSWORD.search(arguments[0]) is not None
    hidden = False
    for argument in arguments:
        if hidden and not argument.startswith("-"):
            shown.append(MASK)
            hidden = False
            continue
        hidden = _OPTION.match(argument) is not None or (short and argument == "-p")
        if short and len(argument) > 2 and argument.startswith("-p") and not argument.startswith("-P"):
            shown.append("-p" + MASK)
        else:
            shown.append(_quoted(printable(masked(argument))))
    return cut(" ".join(shown), limit_bytes)


def masked(argument: str) -> str:
    """One argument without the secrets that can be told."""
    if _MAY_HIDE.search(argument) is None:
        return argument
    whole = _WHOLE.match(argument)
    if whole is not None:
        return whole[1] + MASK
    argument = _URL_PASSWORD.sub(rf"\1:{MASK}@", argument)
    argument = _URL_TOKEN.sub(rf"\1{MASK}@", argument)
    argument = _HEADER.sub(rf"\1{MASK}", argument)
    argument = _FOLLOWS.sub(rf"\1{MASK}", argument)
    return _WITHIN.sub(rf"\1{MASK}", argument)


def cut(text: str, limit_bytes: int) -> str:
    """`text`, or its beginning and an ellipsis, in at most `limit_bytes` of UTF-8."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit_bytes:
        return text
    return raw[: limit_bytes - 3].decode("utf-8", "ignore") + "…"


def _quoted(word: str) -> str:
    return f"'{word}'" if not word or any(char.isspace() for char in word) else word
