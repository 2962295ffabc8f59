"""lsyncd that starts rsync, and rsync in a loop: both to an rsync daemon, as they would across a network.

lsyncd collects changes for `delay` seconds: 15 by default, 1 is what its manual uses for prompt copies. With 0 it
starts rsync at once; that is measured too, since it is the best that it can do.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from fleet import Daemon, free_port, wait_until
from fleet.compare import compare_trees
from frame.peers import find
from replication.members import stop_all

LOOP = Path(__file__).with_name("rsync_loop.sh")


class Targets:
    """One rsync daemon with a module for each replica."""

    def __init__(self, base: Path, replicas: int) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.writer = base / "writer"
        self.replicas = [base / f"replica-{number}" for number in range(replicas)]
        for place in (self.writer, *self.replicas):
            place.mkdir()
        self.port = free_port()
        lines = [
            "use chroot = no",
            "uid = root" if os.geteuid() == 0 else "",
            f"log file = {base}/rsyncd.log",
        ]
        for place in self.replicas:
            lines += [f"[{place.name}]", f"path = {place}", "read only = no"]
        config = base / "rsyncd.conf"
        config.write_text("\n".join(lines) + "\n")
        argv = [find("rsync"), "--daemon", "--no-detach", f"--config={config}", f"--port={self.port}"]
        self.daemon = Daemon("rsyncd", [*argv, "--address=127.0.0.1"], base / "rsyncd.out")

    def start(self) -> None:
        self.daemon.start()
        wait_until("rsync's daemon listens", self._listens, guard=self.daemon.check_alive)

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def addresses(self) -> list[str]:
        return [f"rsync://127.0.0.1:{self.port}/{place.name}/" for place in self.replicas]


class Lsyncd:
    def __init__(self, base: Path, nodes: int, delay_s: int) -> None:
        self.name = f"lsyncd (delay {delay_s}) + rsync"
        self._targets = Targets(base, nodes - 1)
        self.writer, self.replicas = self._targets.writer, self._targets.replicas
        config = base / "lsyncd.conf.lua"
        config.write_text(
            f'settings {{ nodaemon = true, logfile = "{base}/lsyncd.log", statusFile = "{base}/lsyncd.status" }}\n'
            + "".join(
                f'sync {{ default.rsync, source = "{self.writer}", target = "{address}", delay = {delay_s},\n'
                f'       rsync = {{ archive = true, binary = "{find("rsync")}" }} }}\n'
                for address in self._targets.addresses()
            )
        )
        lsyncd = Daemon("lsyncd", [find("lsyncd"), str(config)], base / "lsyncd.out")
        self.daemons = [self._targets.daemon, lsyncd]

    def start(self) -> None:
        self._targets.start()
        self.daemons[1].start()
        mark = self.writer / "first"
        mark.write_bytes(b"is it running?")
        wait_until(
            f"{self.name} copies",
            lambda: [(place / "first").exists() for place in self.replicas],
            all, timeout_s=60, guard=self.daemons[1].check_alive,
        )  # fmt: skip

    def stop(self) -> None:
        stop_all(self.daemons)


class RsyncLoop:
    """`rsync -a --delete` to each replica in turn, again and again, as a cron job's tightest form."""

    name = "rsync -a in a loop"

    def __init__(self, base: Path, nodes: int) -> None:
        self._targets = Targets(base, nodes - 1)
        self.writer, self.replicas = self._targets.writer, self._targets.replicas
        argv = ["/bin/bash", str(LOOP), find("rsync"), f"{self.writer}/", *self._targets.addresses()]
        self.daemons = [self._targets.daemon, Daemon("rsync loop", argv, base / "loop.log")]

    def start(self) -> None:
        self._targets.start()
        self.daemons[1].start()
        wait_until(
            "the first round is over",
            lambda: compare_trees(self.writer, {str(p): str(p) for p in self.replicas}),
            lambda found: not any(found.values()),
            timeout_s=60,
        )

    def stop(self) -> None:
        stop_all(self.daemons[::-1])
