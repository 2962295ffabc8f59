"""What every daemon needs of its machine, tried out: a state directory, a port, open files, versions.

Shared by both doctors; each probe leaves nothing behind. Whether something is wrong is judged here, what
it means for the agent or the coordinator is said by the caller.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import platform
import queue
import resource
import socket
import stat
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from closeranks_proto.findings import Finding, fail, ok, warn
from closeranks_proto.kinds import Address
from closeranks_proto.lines import printable

from .words import size

MIN_SQLITE = (3, 51, 3)
MIN_STATE_BYTES = 256 * 1024 * 1024
PROBE_TIMEOUT_S = 3.0
PROBE_ALL_S = 6.0  # for a whole answer: one that drips would keep us for hours otherwise
PROBE_MAX_BYTES = 256 * 1024
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "glusterfs", "ceph", "afs")


class Probes:
    """The probes as one object, handed to each package's examination."""

    def machine(self) -> list[Finding]:
        return [_python(), _sqlite()]

    def open_files(self, needed: int, what_for: str) -> Finding:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = hard if soft == resource.RLIM_INFINITY else soft
        if soft != resource.RLIM_INFINITY and soft < needed:
            return warn(
                "open files",
                f"at most {soft}, {needed} may be needed for {what_for}",
                "connections or files would be refused under load",
                f"raise it: LimitNOFILE={max(needed, 8192)} in the systemd unit, or ulimit -n {max(needed, 8192)}",
            )
        return ok(
            "open files", f"at most {limit if limit != resource.RLIM_INFINITY else 'unlimited'}, enough"
        )

    def filesystem(self, path: str) -> tuple[str, str]:
        """(type, options) of the file system that holds `path`; ("", "") where the kernel does not say."""
        return filesystem_of(path)

    def state_directory(self, path: str, what_for: str) -> list[Finding]:
        return _state_directory(path, what_for)

    def port(self, key: str, address: Address) -> Finding:
        return _port(key, address)

    def healthy(self, address: Address) -> bool:
        """Whether a daemon answers there that it lives."""
        return _healthy(address)

    def get(self, url: str) -> tuple[int, bytes, str]:
        """(HTTP status, body, ""), or (0, nothing, why there was no answer). Bounded in time and size."""
        return _get(url)

    def dial(self, address: Address) -> str:
        """ "" if something accepts a connection there, else why not."""
        try:
            with socket.create_connection((address.host, address.port), timeout=PROBE_TIMEOUT_S):
                return ""
        except socket.gaierror as error:
            return f"the host name is not known ({error.strerror})"
        except TimeoutError:
            return f"no answer within {PROBE_TIMEOUT_S:g} s"
        except OSError as error:
            return error.strerror or type(error).__name__


def nearest_existing(path: str) -> str:
    """`path` itself or the nearest directory above it that exists."""
    current = Path(path)
    while not current.exists() and current != current.parent:
        current = current.parent
    return str(current)


def filesystem_of(path: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, str]:
    """(type, mount options) of the file system that holds `path`, from the kernel's mount table."""
    real = os.path.realpath(path)
    best, found = "", ("", "")
    with contextlib.suppress(OSError), open(mountinfo, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, tail = left.split(" "), right.split(" ")
            if len(fields) < 6 or len(tail) < 3:
                continue
            point = _unescape_mount(fields[4])
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, found = point, (tail[0], fields[5] + "," + tail[2])
    return found


def _unescape_mount(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _python() -> Finding:
    return ok("python", platform.python_version())  # pip refuses to install below 3.11


def _sqlite() -> Finding:
    import apsw

    version = apsw.sqlite_lib_version()
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    if numbers < MIN_SQLITE:
        return fail(
            "sqlite",
            f"{version} in apsw {apsw.apsw_version()}",
            "SQLite before 3.51.3 can corrupt a database when two connections write and checkpoint at once",
            "install apsw 3.51.3 or later from its wheel, which brings its own SQLite",
        )
    return ok("sqlite", f"{version} in apsw {apsw.apsw_version()}")


def _state_directory(path: str, what_for: str) -> list[Finding]:
    shown = printable(path)
    if not os.path.lexists(path):
        parent = nearest_existing(path)
        if not os.access(parent, os.W_OK | os.X_OK):
            return [
                fail(
                    "state_dir",
                    f"{shown} does not exist and {printable(parent)} is not writable for this user",
                    what_for,
                    f"as root: install -d -m 700 -o USER {shown} (USER is who runs the daemon)",
                )
            ]
        return [
            ok("state_dir", f"{shown} does not exist yet and can be made"),
            *_state_filesystem(parent, what_for),
        ]
    if not os.path.isdir(path):
        return [
            fail(
                "state_dir",
                f"{shown} is not a directory",
                what_for,
                "name a directory of its own as state_dir",
            )
        ]
    try:
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        mend = (
            "make room there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else f"chown it to who runs the daemon: {shown}"
        )
        return [fail("state_dir", f"{shown} can not be written: {reason}", what_for, mend)]
    found = [ok("state_dir", f"{shown} is writable")]
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o022:
        found = [
            warn(
                "state_dir",
                f"{shown} is writable for others (mode {mode:04o})",
                "whoever can write there can lift a fence",
                f"chmod 700 {shown}",
            )
        ]
    elif mode & 0o007:
        found = [
            warn(
                "state_dir",
                f"{shown} can be looked into by everybody (mode {mode:04o})",
                "who wrote which file, and names of files, can be read there; the daemon closes it when it starts, if "
                "the directory is its user's own",
                f"chmod 700 {shown}, or name a directory of its own if others have something there",
            )
        ]
    return found + _state_filesystem(path, what_for)


def _state_filesystem(path: str, what_for: str) -> list[Finding]:
    found: list[Finding] = []
    kind, options = filesystem_of(path)
    if kind in NETWORK_FILESYSTEMS:
        found.append(
            fail(
                "state_dir",
                f"lies on {kind}",
                "a database in write-ahead mode needs a local file system; on a network one it corrupts",
                "move state_dir to a local disk",
            )
        )
    if "ro" in options.split(","):
        found.append(
            fail(
                "state_dir",
                "its file system is mounted read-only",
                what_for,
                "mount it read-write, and look at dmesg for why it was not",
            )
        )
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free < MIN_STATE_BYTES:
        found.append(
            warn(
                "state_dir",
                f"{size(free)} free",
                "a full disk stops the daemon from keeping what it learns",
                f"make room: at least {size(MIN_STATE_BYTES)}",
            )
        )
    else:
        found.append(ok("state_dir", f"{size(free)} free on {kind or 'its file system'}"))
    return found


def _port(key: str, address: Address) -> Finding:
    if address.port == 0:
        return ok(key, f"{address}: a free port is taken at each start")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        family, target = place[0], place[4]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except socket.gaierror as error:
        return fail(
            key,
            f"{address}: the host name is not known ({error.strerror})",
            "the daemon can not listen",
            "name an address of this machine",
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(key, address)
        reason = error.strerror or type(error).__name__
        mend = (
            "take a port from 1024 on"
            if error.errno == errno.EACCES
            else "name an address of this machine: ip addr shows them"
        )
        return fail(key, f"{address}: {reason}", "the daemon can not listen", mend)
    return ok(key, f"{address} is free")


def _taken(key: str, address: Address) -> Finding:
    """Somebody listens there already: ours, or another program?"""
    if _healthy(address):
        return ok(key, f"{address}: a daemon listens there and is healthy")
    return warn(
        key,
        f"{address} is taken, and not by a daemon of closeranks that says it is healthy",
        "if it is another program's, the daemon can not start (exit 3)",
        f"ss -ltnp 'sport = :{address.port}' shows whose it is; stop that, or take another port",
    )


def _healthy(address: Address) -> bool:
    if address.port == 0:
        return False
    host = address.host if address.concrete else ("::1" if ":" in address.host else "127.0.0.1")
    return _get(f"http://{Address(host, address.port)}/-/healthy")[0] == 200  # else not ours, or not healthy


class _AsItCame(urllib.request.HTTPErrorProcessor):
    """A refusal is an answer, too; nobody is led elsewhere."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


def _get(url: str) -> tuple[int, bytes, str]:
    answer: queue.SimpleQueue[tuple[int, bytes, str]] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_ask(url)), daemon=True).start()  # it ends with this program
    try:
        return answer.get(timeout=PROBE_ALL_S)
    except queue.Empty:
        return 0, b"", f"no whole answer within {PROBE_ALL_S:g} s"


def _ask(url: str) -> tuple[int, bytes, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _AsItCame)
    try:
        with opener.open(url, timeout=PROBE_TIMEOUT_S) as answer:
            return int(answer.status), answer.read(PROBE_MAX_BYTES), ""
    except urllib.error.URLError as error:
        return 0, b"", str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, b"", str(error) or type(error).__name__
