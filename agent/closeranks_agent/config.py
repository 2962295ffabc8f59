"""agent.toml, read once into frozen objects; every mistake in it is reported at once.

Paths are judged after symbolic links are resolved, because two names of one directory are one
directory. That a volume's path exists is not asked here: an agent without it runs and reports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import urlsplit

from closeranks_proto import kinds
from closeranks_proto.kinds import AGENTS_PORT, Address
from closeranks_proto.lines import printable
from closeranks_proto.settings import Kind, SettingsError, Table, parse_document, unknown_variables

MAX_VOLUMES = 256
IN_CLEAR = "[agent] coordinator: http:// with insecure = true: names, paths and orders travel in clear"
_DAEMON_KEYS = ("node", "coordinator", "listen", "advertise", "state_dir", "log_format", "insecure")
_HOOK_KEYS = ("on_quarantine", "on_release", "timeout_s", "on_hold", "on_unhold")
_REACTION_KEYS = ("allow_pause", "allow_freeze")
VOLUME_KEYS = (
    "name", "path", "private_dir", "scan_interval_s", "watch", "scrub_interval_s", "scrub_bytes_s", "scrub_files_s",
)  # fmt: skip
WATCH = ("auto", "fanotify", "inotify", "rescan")
VARIABLES = (
    "CLOSERANKS_AGENT_CONFIG",
    *(f"CLOSERANKS_AGENT_{key.upper()}" for key in _DAEMON_KEYS),
    *(f"CLOSERANKS_AGENT_HOOKS_{key.upper()}" for key in _HOOK_KEYS),
    *(f"CLOSERANKS_AGENT_REACTIONS_{key.upper()}" for key in _REACTION_KEYS),
)


@dataclass(frozen=True, slots=True)
class AgentVolumeConfig:
    """One `[[volume]]`. Paths are absolute and normalised, links not resolved.

    `private_dir` None means `<path>/.closeranks`.
    """

    name: str
    path: str
    private_dir: str | None
    scan_interval_s: float | None  # None: what the coordinator says
    watch: str = "auto"  # one of WATCH; what can not be had falls back to the next
    scrub_interval_s: float | None = None  # these three too
    scrub_bytes_s: int | None = None
    scrub_files_s: int | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Programs with their arguments, () for none. `timeout_s` is each one's."""

    on_quarantine: tuple[str, ...]
    on_release: tuple[str, ...]
    timeout_s: float
    on_hold: tuple[str, ...] = ()
    on_unhold: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReactionPermits:
    """What the coordinator may do on this machine while a guard holds it."""

    allow_pause: bool = False
    allow_freeze: bool = False


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All of agent.toml. `reread` gives the same file again under the same flags and variables."""

    file: str
    node: str
    coordinator: str  # http[s]://host:port, always with a port, no trailing slash
    listen: Address
    advertise: Address | None  # None: `listen` if concrete, else the host that the coordinator sees
    state_dir: str
    log_format: Literal["text", "json"]
    insecure: bool
    hooks: Hooks
    volumes: tuple[AgentVolumeConfig, ...]  # in the file's order
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    reactions: ReactionPermits = ReactionPermits()

    def reread(self) -> AgentConfig:
        """For SIGHUP. Raises UserError; the caller keeps what it has."""
        return load_agent_config(self.file, self.flags, self.environ)


def load_agent_config(
    file: str | os.PathLike[str],
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> AgentConfig:
    """Read and judge agent.toml. `flags` are named `agent.listen`; `environ` defaults to os.environ.

    Raises SettingsError with one line for each mistake.
    """
    file = os.fspath(file)
    given_flags = dict(flags or {})
    given_environ = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if name.startswith("CLOSERANKS_AGENT_")
    }
    root = parse_document(_read_file(file), file, given_environ, given_flags)
    root.refuse_other("agent", ("coordinator", "fleet"), "coordinator")
    table = root.table("agent")
    node = table.read(
        "node", kinds.name("node"), "", "the name under which coordinator.toml lists this machine"
    )
    insecure = table.read("insecure", kinds.boolean(), False)
    coordinator = _read_coordinator(table, insecure)
    listen = table.read("listen", kinds.address("0.0.0.0:7342"), Address("0.0.0.0", 7342))
    advertise = table.read("advertise", _optional_address(), None)
    state_dir = table.read(
        "state_dir",
        kinds.absolute_path("a directory for the agent's own state"),
        "",
        "the agent keeps its index, journal and fence there",
    )
    log_format = table.read("log_format", kinds.choice(("text", "json")), "text")
    hooks = _read_hooks(table.table("hooks"))
    reactions = _read_reactions(table.table("reactions"))
    volumes = _read_volumes(root, state_dir)
    table.close(
        dict.fromkeys(VOLUME_KEYS, "[[volume]]")
        | dict.fromkeys(_HOOK_KEYS, "[agent.hooks]")
        | dict.fromkeys(_REACTION_KEYS, "[agent.reactions]")
    )
    root.close(dict.fromkeys(_DAEMON_KEYS, "[agent]"))
    root.problems.raise_if_any()
    warnings = unknown_variables(given_environ, "CLOSERANKS_AGENT_", VARIABLES) + _warnings(
        coordinator, hooks
    )
    return AgentConfig(
        file, node, coordinator, listen, advertise, state_dir,
        cast(Literal["text", "json"], log_format), insecure, hooks, tuple(volumes),
        warnings, _notes(coordinator, listen, advertise) + _allowed(reactions), given_flags, given_environ,
        reactions,
    )  # fmt: skip


def _read_file(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read(2 * 1024 * 1024)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError([f"{printable(file)}: can not be read: {reason}"]) from None


def _read_coordinator(table: Table, insecure: bool) -> str:
    url = table.read(
        "coordinator",
        kinds.base_url("https://coordinator.example:7340", AGENTS_PORT),
        "",
        "where the coordinator listens for agents",
    )
    parts = urlsplit(url)
    if parts.scheme == "http" and not insecure and not kinds.is_loopback(parts.hostname or ""):
        table.reject(
            "coordinator",
            "http:// sends names, paths and orders in clear and proves nobody; use https://, "
            "or say insecure = true where the network is trusted (http:// is always allowed on loopback)",
        )
    return url


def _read_hooks(table: Table) -> Hooks:
    on_quarantine = _read_program(table, "on_quarantine")
    on_release = _read_program(table, "on_release")
    timeout_s = table.read("timeout_s", kinds.number(0.1, 3600), 30.0)
    on_hold = _read_program(table, "on_hold")
    on_unhold = _read_program(table, "on_unhold")
    table.close()
    return Hooks(on_quarantine, on_release, timeout_s, on_hold, on_unhold)


def _read_reactions(table: Table) -> ReactionPermits:
    allow_pause = table.read("allow_pause", kinds.boolean(), False)
    allow_freeze = table.read("allow_freeze", kinds.boolean(), False)
    table.close()
    return ReactionPermits(allow_pause, allow_freeze)


def _read_program(table: Table, key: str) -> tuple[str, ...]:
    program = table.read(key, kinds.many(kinds.text("a word of the command line"), high=100), ())
    if program and not program[0].startswith("/"):
        table.reject(
            key, "the first element is the program, by its absolute path; no shell is asked to find it"
        )
    return program


def _read_volumes(root: Table, state_dir: str) -> list[AgentVolumeConfig]:
    tables = root.tables("volume")
    if not tables and "volume" not in root.values:
        root.problems.add(
            "[[volume]] is missing: an agent watches at least one tree; "
            "write [[volume]] with its name and path"
        )
    if len(tables) > MAX_VOLUMES:
        root.problems.add(f"[[volume]] stands {len(tables)} times; at most {MAX_VOLUMES} volumes are allowed")
        return []
    volumes: list[AgentVolumeConfig] = []
    for table in tables:
        volume = _read_volume(table)
        if volume.name and any(other.name == volume.name for other in volumes):
            table.reject("name", "another [[volume]] has this name; names are unique")
        _judge_places(table, volume, volumes, state_dir)
        volumes.append(volume)
    return volumes


def _read_volume(table: Table) -> AgentVolumeConfig:
    name = table.read("name", kinds.name("volume"), "", "the name of a volume in coordinator.toml")
    table.label = f'"{name}"' if name else ""
    path = table.read(
        "path",
        kinds.absolute_path("the volume's tree on this machine"),
        "",
        "where this volume's tree lies on this machine",
    )
    private = kinds.absolute_path("a directory on the volume's file system, outside every volume")
    private_dir = table.read("private_dir", _optional_path(private), None)
    interval_s = table.read("scan_interval_s", _optional_interval(), None)
    watch = table.read("watch", kinds.choice(WATCH), "auto")
    tours_s = table.read("scrub_interval_s", _optional_float(kinds.scrub_interval()), None)
    bytes_s = table.read("scrub_bytes_s", _optional_int(kinds.scrub_bytes()), None)
    files_s = table.read("scrub_files_s", _optional_int(kinds.scrub_files()), None)
    table.close()
    return AgentVolumeConfig(name, path, private_dir, interval_s, watch, tours_s, bytes_s, files_s)


def _judge_places(
    table: Table, volume: AgentVolumeConfig, earlier: list[AgentVolumeConfig], state_dir: str
) -> None:
    """No two of volumes, private directories and the state directory may be one or lie in one another."""
    places: list[tuple[str, str]] = [("state_dir", state_dir)] if state_dir else []
    for other in earlier:
        label = f'volume "{other.name}"'
        places.append((f"the path of {label}", other.path))
        if other.private_dir:
            places.append((f"the private_dir of {label}", other.private_dir))
    own = [("path", volume.path)] + ([("private_dir", volume.private_dir)] if volume.private_dir else [])
    if volume.private_dir:
        places.append(("this volume's path", volume.path))
    for key, place in own:
        for what, other_place in places:
            if not place or not other_place or (key == "path" and what == "this volume's path"):
                continue
            relation = _relation(place, other_place)
            if relation:
                table.reject(
                    key, f"it {relation} {what} ({printable(other_place)}); each needs a place of its own"
                )


def _relation(place: str, other: str) -> str:
    """How two places overlap once links are resolved; "" if they do not."""
    ours, theirs = os.path.realpath(place), os.path.realpath(other)
    if ours == theirs:
        return "is the same directory as"
    if ours.startswith(theirs.rstrip("/") + "/"):
        return "lies inside"
    if theirs.startswith(ours.rstrip("/") + "/"):
        return "contains"
    return ""


def _optional_path(kind: Kind[str]) -> Kind[str | None]:
    return Kind(kind.allowed, kind.accept, kind.parse)


def _optional_address() -> Kind[Address | None]:
    kind = kinds.address("node-01.example:7342", dialled=True)
    return Kind(kind.allowed, kind.accept, kind.parse)


def _optional_interval() -> Kind[float | None]:
    return _optional_float(kinds.number(0.1, 7 * 86400.0))


def _optional_float(kind: Kind[float]) -> Kind[float | None]:
    return Kind(kind.allowed, kind.accept, kind.parse)


def _optional_int(kind: Kind[int]) -> Kind[int | None]:
    return Kind(kind.allowed, kind.accept, kind.parse)


def _warnings(coordinator: str, hooks: Hooks) -> tuple[str, ...]:
    found: list[str] = []
    parts = urlsplit(coordinator)
    if parts.scheme == "http" and not kinds.is_loopback(parts.hostname or ""):
        found.append(IN_CLEAR)
    programs = (
        ("on_quarantine", hooks.on_quarantine),
        ("on_release", hooks.on_release),
        ("on_hold", hooks.on_hold),
        ("on_unhold", hooks.on_unhold),
    )
    for key, program in programs:
        if program and not os.access(program[0], os.X_OK):
            found.append(f"[agent.hooks] {key}: {printable(program[0])} can not be executed by this user")
    return tuple(found)


def _notes(coordinator: str, listen: Address, advertise: Address | None) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if coordinator.startswith("https://"):
        found = (
            "[agent] coordinator: https:// needs a TLS proxy before the coordinator, "
            "which does not speak TLS by itself",
        )
    return found + _reach(listen, advertise)


def _allowed(reactions: ReactionPermits) -> tuple[str, ...]:
    found: list[str] = []
    if reactions.allow_pause:
        found.append(
            "[agent.reactions] allow_pause = true: while a guard holds this node, the coordinator may stop the "
            "processes that wrote in the volume (SIGSTOP); they go on when the hold ends"
        )
    if reactions.allow_freeze:
        found.append(
            "[agent.reactions] allow_freeze = true: while a guard holds this node, the coordinator may make the "
            "volume's mount read-only; it works only where the volume is a mount of its own"
        )
    return tuple(found)


def _reach(listen: Address, advertise: Address | None) -> tuple[str, ...]:
    if advertise is None and not listen.concrete:
        return (
            "[agent] advertise is not set: peers dial the address from which the coordinator sees this node, "
            f"port {listen.port}; behind address translation set it",
        )
    if advertise is None and listen.loopback:
        return (f"[agent] listen = {listen}: only agents on this machine can fetch chunks from this node",)
    return ()
