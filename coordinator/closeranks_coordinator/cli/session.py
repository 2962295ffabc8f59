"""What the operator's commands share: their options, the API they ask, their exit codes.

Exit codes: 0 done or nothing found, 1 refused, failed or something found, 2 could not ask or wrong usage.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from closeranks_proto.errors import UserError
from closeranks_proto.kinds import parse_base_url
from closeranks_proto.lines import printable
from closeranks_proto.settings import Invalid

from ..tokens import read_secret
from .client import Api
from .screen import Screen

OK, FOUND, NOT_ASKED = 0, 1, 2
DEFAULT_URL = "http://127.0.0.1:7341"
Run = Callable[[argparse.Namespace, Screen], int]


def asking(parser: argparse.ArgumentParser, json_help: str = "print the API's answer unchanged") -> None:
    """Add --url, --token-file and --json."""
    group = parser.add_argument_group("asking the coordinator")
    group.add_argument(
        "--url", metavar="URL", help=f"its listen_api; else CLOSERANKS_URL, else {DEFAULT_URL}"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file that holds the operator's token; else CLOSERANKS_TOKEN_FILE",
    )
    group.add_argument("--json", action="store_true", help=json_help)


def open_api(args: argparse.Namespace, screen: Screen) -> Api:
    """The API that flags and environment name. Raises UserError."""
    given = args.url or os.environ.get("CLOSERANKS_URL") or DEFAULT_URL
    source = "--url" if args.url else "CLOSERANKS_URL"
    try:
        url, _ = parse_base_url(given)
    except Invalid as error:
        raise UserError(f"{source} {printable(given)!r}: {error}; like {DEFAULT_URL}") from None
    token_file = args.token_file or os.environ.get("CLOSERANKS_TOKEN_FILE")
    api = Api(url, read_secret(token_file) if token_file else None)
    screen.opened.callback(api.close)
    if api.token_in_clear:
        screen.say(f"warning: the token travels in clear to {url}; use https:// outside of trusted networks")
    return api


def now_ms(api: Api) -> int:
    """The coordinator's clock if it told it, else ours."""
    return int(time.time() * 1000) if api.now_ms is None else api.now_ms
