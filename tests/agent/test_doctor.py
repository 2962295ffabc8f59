"""The doctor: what would stop the agent on this machine, found without touching a compared tree."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

import clifake
from clifake import Fake
from closeranks_agent import doctor
from closeranks_agent.config import AgentVolumeConfig, load_agent_config
from closeranks_agent.doctor import examine_agent, examine_hands
from closeranks_agent.grounds import examine_volume
from closeranks_agent.state import opened_state, state_file
from closeranks_coordinator.cli import probes as probing
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.cli.probes import Probes, filesystem_of
from closeranks_proto.findings import Finding
from closeranks_proto.kinds import Address
from link_world import config_of


def told(findings: list[Finding], level: str) -> str:
    return "\n".join(f"{one.subject}: {one.what}" for one in findings if one.level == level)


def volume(path: Path, private_dir: Path | None = None) -> AgentVolumeConfig:
    return AgentVolumeConfig("photos", str(path), None if private_dir is None else str(private_dir), None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    (place / "readme").write_text("x")
    return place


def contents(place: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in [place, *place.rglob("*")])


def test_a_sound_tree_is_left_untouched(tree: Path) -> None:
    before = contents(tree)
    findings = examine_volume(volume(tree), Probes())
    assert told(findings, "fail") == ""
    assert "does not exist yet and can be made" in told(findings, "ok")
    assert contents(tree) == before


def test_every_finding_that_is_not_ok_says_why_and_what_mends_it(tmp_path: Path, tree: Path) -> None:
    (tree / ".closeranks").write_text("a file")
    findings = examine_volume(volume(tree), Probes()) + examine_volume(volume(tmp_path / "none"), Probes())
    bad = [one for one in findings if one.level != "ok"]
    assert len(bad) >= 2
    assert all(one.why and one.mend for one in bad)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in told(examine_volume(volume(tmp_path / "none"), Probes()), "fail")


def test_a_path_that_is_a_file_or_a_link(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in told(examine_volume(volume(tmp_path / "file"), Probes()), "fail")
    (tmp_path / "link").symlink_to(tree)
    assert "is a symbolic link to" in told(examine_volume(volume(tmp_path / "link"), Probes()), "fail")


def test_an_empty_tree_may_be_unmounted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is empty and no mount point" in told(examine_volume(volume(tmp_path / "empty"), Probes()), "warn")


def test_a_private_directory_of_somebody_else(tree: Path) -> None:
    (tree / ".closeranks").mkdir()
    (tree / ".closeranks" / "photo").touch()
    assert "does not have its mark" in told(examine_volume(volume(tree), Probes()), "fail")


def test_our_own_private_directory_is_tried_out_and_left_clean(tree: Path) -> None:
    private = tree / ".closeranks"
    private.mkdir(0o700)
    (private / "OWNER").write_text("closeranks private directory\n")
    findings = examine_volume(volume(tree), Probes())
    assert told(findings, "fail") == ""
    assert "exchanged in one step" in told(findings, "ok") + told(findings, "warn")
    assert os.listdir(private) == ["OWNER"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_private_directory_on_a_full_disk_needs_room_and_no_other_owner(tmp_path: Path) -> None:
    from fleet.tmpfs import Tmpfs

    with Tmpfs(tmp_path / "full", 1 << 20) as disk:
        private = disk.path / ".closeranks"
        private.mkdir(0o700)
        (private / "OWNER").write_text("closeranks private directory\n")
        disk.fill(0)
        found = [one for one in examine_volume(volume(disk.path), Probes()) if one.level == "fail"]
        assert [(one.what, one.mend) for one in found] == [
            (f"{private} can not be written: No space left on device", "make room on its file system")
        ]


def test_a_private_directory_on_another_file_system(tmp_path: Path, tree: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tree.stat().st_dev:
        pytest.skip("no second file system at hand")
    findings = examine_volume(volume(tree, elsewhere / "closeranks-doctor-test"), Probes())
    assert "another file system than the volume" in told(findings, "fail")


def test_what_may_be_done_about_a_runaway_is_said(tmp_path: Path) -> None:
    assert "none is allowed" in told(examine_hands(config_of(tmp_path, 1)), "ok")
    allowed = "[agent.reactions]\nallow_pause = true\nallow_freeze = true"
    findings = examine_hands(config_of(tmp_path, 1, allowed))
    assert "volume photos can not be frozen: it is not a mount of its own" in told(findings, "warn")
    assert "can be paused" in told(findings, "ok") or "not root" in told(findings, "warn")


def test_a_machine_that_hides_its_processes_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "readlink", hidden)
    assert "can not be seen (Permission denied)" in told(examine_hands(config_of(tmp_path, 1)), "warn")


def test_root_that_may_not_look_at_processes_is_not_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_: str) -> str:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "readlink", hidden)
    for uid, said in ((0, "takes even from root"), (1000, "run the agent as root or with CAP_SYS_PTRACE")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert said in doctor._writers().mend


def test_little_room(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tree)
    fields = list(real)
    fields[4], fields[6], fields[7] = fields[2] // 100, 1_000_000, 100  # f_bavail, f_ffree, f_favail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*fields[:10]]))
    warned = told(examine_volume(volume(tree), Probes()), "warn")
    assert "MB free (" in warned
    assert "100 inodes free" in warned
    assert "its trash takes" not in warned


def test_a_trash_that_fills_the_disk_is_told_with_the_way_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tree / ".closeranks" / "trash" / "items"
    items.mkdir(parents=True)
    (items / "one").write_bytes(b"x" * 3_000_000)
    fields = list(os.statvfs(tree))
    fields[4] = 2_000_000 // fields[1]  # f_bavail, in units of f_frsize
    fields[2] = 100 * fields[4]  # f_blocks
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*fields[:10]]))
    (found,) = [one for one in examine_volume(volume(tree), Probes()) if "MB free" in one.what]
    assert found.what.endswith("and its trash takes 3 MB")
    assert "closeranks trash restore" in found.mend
    assert "lower trash_keep_s" in found.mend


def test_weak_read_only_and_folding_file_systems(tree: Path) -> None:
    class Odd(Probes):
        def filesystem(self, path: str) -> tuple[str, str]:
            return ("vfat", "ro,relatime")

    findings = examine_volume(volume(tree), Odd())
    assert "mounted read-only" in told(findings, "fail")
    assert "differ only in case are one file" in told(findings, "fail")


def test_the_mount_table_is_read_with_its_escapes(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    table = tmp_path / "mountinfo"
    escaped = str(place).replace(" ", "\\040")
    table.write_text(
        "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"2 1 0:40 / {escaped} rw,nosuid - nfs4 server:/x ro,vers=4\n"
        "broken line\n"
    )
    assert filesystem_of(str(place / "below"), str(table)) == ("nfs4", "rw,nosuid,ro,vers=4")
    assert filesystem_of("/", str(table)) == ("ext4", "rw,relatime,rw")
    assert filesystem_of("/", str(tmp_path / "absent")) == ("", "")


def write_config(tmp_path: Path, tree: Path, port: int, listen: int = 0, host: str = "127.0.0.1") -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\nnode = "n1"\ncoordinator = "http://{host}:{port}"\ninsecure = true\nlisten = "127.0.0.1:{listen}"\n'
        f'state_dir = "{tmp_path}/state"\n[[volume]]\nname = "photos"\npath = "{tree}"\n'
    )
    return file


@pytest.fixture
def coordinator() -> Iterator[Fake]:
    """What `listen_agents` of a coordinator answers about n1."""
    with clifake.serving(Fake()) as fake:
        fake.routes["GET /v1/agents/n1"] = {"node": "n1", "volumes": ["photos"]}
        yield fake


def port_of(fake: Fake) -> int:
    return int(fake.url.rpartition(":")[2])


def test_the_whole_agent(tmp_path: Path, tree: Path, coordinator: Fake) -> None:
    file = write_config(tmp_path, tree, port_of(coordinator))
    findings = examine_agent(str(file), Probes())
    assert told(findings, "fail") == ""
    assert "answers, and knows n1" in told(findings, "ok")
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = write_config(tmp_path, tree, server.getsockname()[1])
    findings = examine_agent(str(file), Probes())
    assert told(findings, "fail") == "", "nobody listens yet: that is no fault of the set-up"
    assert "Connection refused: not running yet?" in told(findings, "warn")


@pytest.mark.parametrize(
    ("answer", "what", "mend"),
    [
        ((404, clifake.error("unknown_node", "")), 'node: the coordinator has no node "n1"', "mend node in agent.toml"),
        ((421, clifake.error("wrong_port", "")), "is the coordinator's listen_api", "port of its listen_agents"),
        ((404, b"404: Not Found"), "no coordinator of this version: it answers with HTTP status 404", "listen_agents"),
        ((200, {"node": "n2", "volumes": []}), "is no coordinator of this version", "listen_agents"),
        ((200, b"welcome"), "is no coordinator of this version", "listen_agents"),
    ],
)  # fmt: skip
def test_an_address_that_leads_elsewhere(
    tmp_path: Path, tree: Path, coordinator: Fake, answer: object, what: str, mend: str
) -> None:
    coordinator.routes["GET /v1/agents/n1"] = answer
    findings = examine_agent(str(write_config(tmp_path, tree, port_of(coordinator))), Probes())
    assert what in told(findings, "fail")
    assert any(mend in one.mend for one in findings if one.level == "fail")


def test_an_agent_that_does_not_answer_is_said_once_it_has_run(
    tmp_path: Path, tree: Path, coordinator: Fake
) -> None:
    """`status` sends people to the doctor of a silent node: "nothing is broken" would be no answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    file = write_config(tmp_path, tree, port_of(coordinator), free)
    assert "agent:" not in told(examine_agent(str(file), Probes()), "warn"), "it was never started"
    config = load_agent_config(str(file))
    with opened_state(config.state_dir):
        pass
    (warned,) = [one for one in examine_agent(str(file), Probes()) if one.subject == "agent"]
    assert (warned.level, "no agent answers at" in warned.what) == ("warn", True)
    assert "closeranks agent --config" in warned.mend
    state_file(config.state_dir).write_bytes(b"rubbish" * 4096)
    findings = examine_agent(str(file), Probes())
    assert "agent.sqlite is damaged" in told(findings, "fail")
    assert "Restore it from a backup, or remove it" in told(findings, "fail")
    assert [one.subject for one in findings if one.level == "fail"] == ["state_dir"]


def test_an_unknown_host_is_said_with_what_to_do(tmp_path: Path, tree: Path) -> None:
    findings = examine_agent(str(write_config(tmp_path, tree, 7340, host="no-such-host.invalid")), Probes())
    (found,) = [one for one in findings if one.level == "fail"]
    assert "the host name is not known" in found.what
    assert "getent hosts no-such-host.invalid must print an address" in found.mend


def test_a_volume_that_only_one_side_has(tmp_path: Path, tree: Path, coordinator: Fake) -> None:
    coordinator.routes["GET /v1/agents/n1"] = {"node": "n1", "volumes": ["docs"]}
    warned = told(examine_agent(str(write_config(tmp_path, tree, port_of(coordinator))), Probes()), "warn")
    assert "the coordinator has no volume photos for n1" in warned
    assert "the coordinator expects volume docs of n1, and agent.toml has none" in warned


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkey_timeout, probing.PROBE_TIMEOUT_S = probing.PROBE_TIMEOUT_S, 0.2
        try:
            finding = Probes().port("listen", Address("127.0.0.1", port))
        finally:
            probing.PROBE_TIMEOUT_S = monkey_timeout
    assert finding.level == "warn"
    assert "is taken" in finding.what
    assert f"sport = :{port}" in finding.mend
    assert Probes().port("listen", Address("127.0.0.1", port)).level == "ok"
    assert Probes().port("listen", Address("192.0.2.1", 7342)).level == "fail"
    assert Probes().port("listen", Address("no-such-host.invalid", 7342)).level == "fail"


def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the answer never."""
    monkeypatch.setattr(probing, "PROBE_ALL_S", 0.5)
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(b"x")
                if over.wait(0.05):
                    return

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        dripping = threads.submit(drip, server)
        try:
            found = Probes().get(f"http://127.0.0.1:{server.getsockname()[1]}/")
            assert not dripping.done(), "it had not said all"
        finally:
            over.set()
    assert found == (0, b"", "no whole answer within 0.5 s")


def test_state_directory(tmp_path: Path) -> None:
    probes = Probes()
    assert told(probes.state_directory(str(tmp_path / "a" / "b"), "why"), "fail") == ""
    (tmp_path / "file").touch()
    assert "is not a directory" in told(probes.state_directory(str(tmp_path / "file"), "why"), "fail")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "writable for others (mode 0777)" in told(
        probes.state_directory(str(tmp_path / "open"), "why"), "warn"
    )
    assert os.listdir(tmp_path / "open") == []
    (tmp_path / "open").chmod(0o755)
    assert "looked into by everybody (mode 0755)" in told(
        probes.state_directory(str(tmp_path / "open"), "why"), "warn"
    )
    (tmp_path / "open").chmod(0o750)
    assert told(probes.state_directory(str(tmp_path / "open"), "why"), "warn") == ""


def test_a_connection_that_is_not_encrypted_is_told_for_what_it_is(tmp_path: Path, tree: Path) -> None:
    file = write_config(tmp_path, tree, 1)
    text = file.read_text()
    file.write_text(re.sub(r'coordinator = ".*"', 'coordinator = "http://192.0.2.1:1"', text))
    found = [one for one in examine_agent(str(file), Probes()) if "insecure = true" in one.what]
    assert [(one.level, one.subject) for one in found] == [("warn", "coordinator")]
    assert "orders" in found[0].why
    assert "only your own servers" in found[0].mend


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    finding = Probes().open_files(1024, "hashing")
    assert (finding.level, "LimitNOFILE=8192" in finding.mend) == ("warn", True)
    assert Probes().open_files(200, "hashing").level == "ok"


def test_the_command(
    tmp_path: Path, tree: Path, coordinator: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_config(tmp_path, tree, port_of(coordinator))
    assert main(["doctor", "--config", str(file)]) == 0
    assert "coordinator: http://127.0.0.1" in capsys.readouterr().out
    assert main(["doctor", "--config", str(file), "--json"]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["files"] == [str(file)]
    assert {"level", "subject", "what", "why", "mend"} == set(answer["findings"][0])
    file.write_text("[agent]\nnode = 3\n")
    assert main(["doctor", "--config", str(file)]) == 1
    out = capsys.readouterr().out
    assert "node = 3: not a string" in out
    assert "refuses to start with it" in out


def test_the_command_finds_the_usual_files(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOSERANKS_AGENT_CONFIG", str(write_config(tmp_path, tree, 1)))
    assert main(["doctor"]) == 0
    assert "configuration: " in capsys.readouterr().out


def test_the_coordinators_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "coordinator.toml"
    text = (
        '[coordinator]\nlisten_agents = "127.0.0.1:0"\nlisten_api = "127.0.0.1:0"\n'
        f'state_dir = "{tmp_path}/state"\n[fleet]\nnodes = ["n1", "n2", "n3"]\n'
        '[[volume]]\nname = "photos"\non_divergence = "alert"\n'
    )
    file.write_text(text)
    assert main(["doctor", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 nodes, a quorum is 2: nobody is judged with more than 1 away" in out
    assert "your own replication must bring a change to 2 nodes" in out
    file.write_text(
        text.replace('"n2", "n3"', '"n2"').replace("127.0.0.1:0", "0.0.0.0:0", 1) + "settle_s = 1\n"
    )
    assert main(["doctor", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "warn  volume photos: 2 nodes, a quorum is 2" in out
    assert "is open to the network without TLS" in out
    assert "settle_s is 1: short" in out
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "coordinator.sqlite").write_bytes(b"rubbish" * 1000)
    assert main(["doctor", "--config", str(file)]) == 1
    assert "fail  store: " in capsys.readouterr().out
