"""Syncthing as one would run it in a fleet that trusts its network: no discovery, no relays, its watcher on.

One folder shared by all devices, each knowing the others' addresses. The writer's is `sendonly`, the others'
`receiveonly`. Its watcher waits `fsWatcherDelayS` before it acts: 10 by default, 1 at the least (this version
keeps whole seconds).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

from fleet import Api, Daemon, free_port, wait_until
from frame.peers import find
from replication.members import run, stop_all

FOLDER = "measured"
DEFAULT_DELAY_S, LEAST_DELAY_S = 10, 1
KEY = "loopback"


class Device:
    def __init__(self, base: Path, number: int) -> None:
        self.home = base / f"device-{number}"
        self.path = base / f"tree-{number}"
        self.port, self.gui = free_port(), free_port()
        self.api = Api(self.gui)
        self.name = f"device-{number}"
        run(
            find("syncthing"), "generate", f"--home={self.home}", "--no-default-folder", "--skip-port-probing"
        )
        self.id = run(find("syncthing"), f"--home={self.home}", "--device-id").strip()
        argv = [
            find("syncthing"), "serve", f"--home={self.home}", "--no-browser", "--no-restart", "--no-upgrade",
            f"--gui-address=127.0.0.1:{self.gui}", f"--gui-apikey={KEY}",
        ]  # fmt: skip
        self.daemon = Daemon(self.name, argv, base / f"device-{number}.log")

    def ask(self, path: str, method: str = "GET", body: object = None) -> Any:
        status, _, data = self.api.request(method, path, body, {"X-API-Key": KEY})
        if status >= 400:
            raise ConnectionError(f"syncthing answered {status} to {path}: {data[:200]!r}")
        return json.loads(data) if data else None

    def configure(self, devices: list[Device], delay_s: int) -> None:
        file = self.home / "config.xml"
        tree = ET.parse(file)
        root = tree.getroot()
        for element in [*root.findall("device"), *root.findall("folder")]:
            root.remove(element)
        options = root.find("options")
        assert options is not None
        for option in list(options):
            if option.tag in OPTIONS or option.tag == "listenAddress":
                options.remove(option)
        for key, value in OPTIONS.items():
            ET.SubElement(options, key).text = value
        ET.SubElement(options, "listenAddress").text = f"tcp://127.0.0.1:{self.port}"
        for device in devices:
            element = ET.SubElement(root, "device", id=device.id, name=device.name, compression="never")
            ET.SubElement(element, "address").text = f"tcp://127.0.0.1:{device.port}"
        folder = ET.SubElement(
            root, "folder", id=FOLDER, path=str(self.path), rescanIntervalS="3600",
            type="sendonly" if self is devices[0] else "receiveonly",
            fsWatcherEnabled="true", fsWatcherDelayS=str(delay_s),
        )  # fmt: skip
        for device in devices:
            ET.SubElement(folder, "device", id=device.id)
        tree.write(file)


OPTIONS = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "urAccepted": "-1",
    "crashReportingEnabled": "false",
    "startBrowser": "false",
    "autoUpgradeIntervalH": "0",
    "reconnectionIntervalS": "5",
}


class Syncthing:
    name = "Syncthing"

    def __init__(self, base: Path, nodes: int, delay_s: int = LEAST_DELAY_S) -> None:
        self.devices = [Device(base, number) for number in range(nodes)]
        self.writer, *self.replicas = [device.path for device in self.devices]
        self.daemons = [device.daemon for device in self.devices]
        for device in self.devices:
            device.configure(self.devices, delay_s)

    def start(self) -> None:
        for device in self.devices:
            device.path.mkdir(exist_ok=True)
            device.daemon.start()
        for device in self.devices:
            wait_until(f"{device.name} is idle and connected", partial(self._settled, device), timeout_s=90)

    def _settled(self, device: Device) -> bool:
        folder = device.ask(f"/rest/db/status?folder={FOLDER}")
        others = device.ask("/rest/system/connections")["connections"].values()
        connected = sum(1 for other in others if other["connected"])
        return (
            folder["state"] == "idle" and folder["needTotalItems"] == 0 and connected == len(self.devices) - 1
        )

    def delay(self, seconds: int) -> None:
        for device in self.devices:
            device.ask(f"/rest/config/folders/{FOLDER}", "PATCH", {"fsWatcherDelayS": seconds})
        for device in self.devices:
            wait_until(f"{device.name} has the new delay", partial(self._settled, device), timeout_s=60)

    def stop(self) -> None:
        stop_all(self.daemons)
