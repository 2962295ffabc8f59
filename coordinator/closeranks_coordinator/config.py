"""coordinator.toml, read once into frozen objects; every mistake in it is reported at once.

What a value means for the fleet is judged here as well: a quorum that could be lost, a settle time that
can not hold, an API that would be open to the network. What makes the file unusable is an error; what
will surprise is a warning; what an operator should know about his choices is a note.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from closeranks_proto import kinds
from closeranks_proto.errors import UserError
from closeranks_proto.kinds import Address
from closeranks_proto.lines import printable
from closeranks_proto.settings import Problems, SettingsError, Table, parse_document, unknown_variables

from .core.model import FleetConfig
from .fleet_config import FLEET_KEYS, VOLUME_KEYS, read_fleet
from .guard_config import GUARD_KEYS
from .tokens import read_secret

_DAEMON_KEYS = ("listen_agents", "listen_api", "state_dir", "log_format", "token_files", "public_hosts")
VARIABLES = (
    "CLOSERANKS_COORDINATOR_CONFIG",
    *(f"CLOSERANKS_COORDINATOR_{key.upper()}" for key in _DAEMON_KEYS),
    *(f"CLOSERANKS_FLEET_{key.upper()}" for key in FLEET_KEYS),
    *(f"CLOSERANKS_GUARDS_{key.upper()}" for key in GUARD_KEYS),
)


@dataclass(frozen=True, slots=True)
class Token:
    """One operator's token. `file` names it in logs; the secret never shows itself."""

    file: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """All of coordinator.toml. `reread` gives the same file again under the same flags and variables."""

    file: str
    listen_agents: Address
    listen_api: Address
    state_dir: str
    log_format: Literal["text", "json"]
    tokens: tuple[Token, ...]
    public_hosts: tuple[str, ...]  # names under which a proxy shows the API; accepted as Host and Origin
    fleet: FleetConfig
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def reread(self) -> CoordinatorConfig:
        """For SIGHUP. Raises UserError; the caller keeps what it has."""
        return load_coordinator_config(self.file, self.flags, self.environ)


def load_coordinator_config(
    file: str | os.PathLike[str],
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> CoordinatorConfig:
    """Read and judge coordinator.toml.

    `flags` are named `coordinator.listen_api`; `environ` defaults to os.environ. Raises SettingsError
    with one line for each mistake.
    """
    file = os.fspath(file)
    given_flags = dict(flags or {})
    given_environ = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if name.startswith(("CLOSERANKS_COORDINATOR_", "CLOSERANKS_FLEET_", "CLOSERANKS_GUARDS_"))
    }
    root = parse_document(read_file(file), file, given_environ, given_flags)
    root.refuse_other("coordinator", ("agent",), "agent")
    daemon = root.table("coordinator")
    listen_agents, listen_api, state_dir, log_format, hosts = _read_daemon(daemon)
    tokens = _read_tokens(daemon, root.problems)
    if not tokens and not listen_api.loopback:
        daemon.reject(
            "listen_api",
            "without tokens whoever reaches this address could fence nodes; listen on loopback, "
            'like 127.0.0.1:7341, or name token files: token_files = ["/etc/closeranks/token"]',
        )
    if listen_api.port and listen_api == listen_agents:
        daemon.reject("listen_api", "listen_agents has the same address; the two need a port each")
    reading = read_fleet(root)
    elsewhere = dict.fromkeys(VOLUME_KEYS, "[[volume]]") | dict.fromkeys(FLEET_KEYS, "[fleet]")
    daemon.close(elsewhere)
    root.close(dict.fromkeys(_DAEMON_KEYS, "[coordinator]") | elsewhere)
    root.problems.raise_if_any()
    assert reading.fleet is not None, "a fleet that could not be read is a problem"
    warnings = unknown_variables(given_environ, "CLOSERANKS_", VARIABLES) + reading.warnings
    return CoordinatorConfig(
        file, listen_agents, listen_api, state_dir, log_format, tokens, hosts, reading.fleet,
        warnings, reading.notes, given_flags, given_environ,
    )  # fmt: skip


def read_file(file: str) -> bytes:
    """The bytes of a configuration file. Raises SettingsError with what to do."""
    try:
        with open(file, "rb") as stream:
            return stream.read(2 * 1024 * 1024)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError([f"{printable(file)}: can not be read: {reason}"]) from None


def _read_daemon(table: Table) -> tuple[Address, Address, str, Literal["text", "json"], tuple[str, ...]]:
    listen_agents = table.read("listen_agents", kinds.address("0.0.0.0:7340"), Address("0.0.0.0", 7340))
    listen_api = table.read("listen_api", kinds.address("127.0.0.1:7341"), Address("127.0.0.1", 7341))
    state_dir = table.read(
        "state_dir", kinds.absolute_path("a directory for the coordinator's own state"), "",
        "the coordinator keeps history, incidents and fences there",
    )  # fmt: skip
    log_format = table.read("log_format", kinds.choice(("text", "json")), "text")
    host = kinds.text("a host name, with a port if the proxy has one, like ranks.example:8443", 255)
    hosts = table.read("public_hosts", kinds.distinct(kinds.many(host, high=64)), ())
    return listen_agents, listen_api, state_dir, cast(Literal["text", "json"], log_format), hosts


def _read_tokens(table: Table, problems: Problems) -> tuple[Token, ...]:
    kind = kinds.distinct(kinds.many(kinds.absolute_path("a file that holds one token"), high=256))
    tokens: list[Token] = []
    for file in table.read("token_files", kind, ()):
        try:
            secret = read_secret(file)
        except UserError as error:
            table.reject("token_files", str(error))
            continue
        if any(token.secret == secret for token in tokens):
            table.reject("token_files", f"{printable(file)} holds the same token as another file")
        tokens.append(Token(file, secret))
    return tuple(tokens)
