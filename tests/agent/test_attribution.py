"""Whose hand: real processes of the test's own, looked up while they live and after they ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent.hands import attribution
from closeranks_agent.hands.attribution import ENDED, FOREIGN, Attribution
from closeranks_agent.hands.cgroups import unit_of
from closeranks_agent.hands.masking import command_of, masked
from closeranks_agent.hands.processes import stat_of
from closeranks_proto.limits import COMMAND_MAX_BYTES, PARENTS_MAX

Start = Callable[..., subprocess.Popen[bytes]]
WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that says that it is ready and then waits; all are ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            argv or (sys.executable, "-c", WAITS), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_process_is_told_with_program_command_user_and_parents(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "rogue.py"
    script.write_text(WAITS)
    process = start(sys.executable, str(script), "a b")
    hand = Attribution().of(process.pid)
    assert hand is not None
    assert hand.pid == process.pid
    assert hand.exe == os.path.realpath(sys.executable)
    assert hand.command == shlex.join([sys.executable, str(script), "a b"]), (
        "an interpreter's command line shows the script"
    )
    assert hand.uid == os.geteuid()
    assert hand.parents[0] == f"{os.getpid()} {os.readlink('/proc/self/exe')}"
    assert len(hand.parents) <= PARENTS_MAX
    assert (hand.files, hand.bytes, hand.detail) == (0, 0, "")


def test_a_process_that_has_ended_is_known_if_it_was_seen(start: Start) -> None:
    clock = Clock()
    known, unseen = Attribution(clock), Attribution(clock)
    process = start()
    before = known.of(process.pid)
    end(process)
    clock.now += 60
    assert known.of(process.pid) == before
    assert unseen.of(process.pid) == Attribution.unknown(ENDED)


def test_a_process_that_is_ending_is_still_its_program(start: Start) -> None:
    """Events come later than they happened: `chmod` of 1,530 files was told as two hands, chmod and [chmod]."""
    process, clock = start(), Clock()
    hands = Attribution(clock)
    before = hands.of(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    clock.now += 10.0
    assert before is not None
    assert before.exe == os.path.realpath(sys.executable)
    assert hands.of(process.pid) == before


def test_a_process_that_became_another_program_is_seen_as_that(start: Start) -> None:
    clock = Clock()
    known = Attribution(clock)
    becomes = "import os, sys; print('1', flush=True); sys.stdin.readline(); os.execv('/bin/cat', ['cat'])"
    process = start(sys.executable, "-c", becomes)
    first = known.of(process.pid)
    assert first is not None
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    cat = os.path.realpath("/bin/cat")
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{process.pid}/exe") != cat and time.monotonic() < deadline:
        time.sleep(0.01)
    clock.now += attribution.CHECK_FIRST_S
    second = known.of(process.pid)
    assert second is not None
    assert (second.pid, second.exe, second.command) == (first.pid, cat, "cat")


def test_a_number_that_was_given_to_another_process_is_another_hand(start: Start) -> None:
    clock = Clock()
    known = Attribution(clock)
    process = start()
    hand = known.of(process.pid)
    known._known[process.pid].started -= 1  # as if the one that was seen had begun earlier
    clock.now += 2
    assert known.of(process.pid) == hand
    found = stat_of(process.pid)
    assert found is not None
    assert hand is not None
    assert known.started(hand) == found.started


def test_what_can_not_be_named_says_why() -> None:
    known = Attribution()
    assert known.of(0) == Attribution.unknown(FOREIGN)
    assert known.of(2**22 + 1) == Attribution.unknown(ENDED)
    assert known.of(os.getpid()) is None, "the agent is nobody's hand"


@pytest.mark.skipif(not os.path.isdir("/proc/2"), reason="a pid namespace shows no kernel thread")
def test_a_kernel_thread_is_unknown_by_its_name() -> None:
    hand = Attribution().of(2)
    assert hand is not None
    assert hand.pid == 0
    assert hand.exe == "[kthreadd]"
    assert "kernel thread" in hand.detail


def test_a_known_process_is_not_read_again_within_its_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    known = Attribution(clock)
    process = start()
    hand = known.of(process.pid)
    monkeypatch.setattr(attribution, "ProcessDirectory", None)
    assert known.of(process.pid) == hand


def test_a_fault_while_looking_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    process = start()
    monkeypatch.setattr(attribution, "ProcessDirectory", None)
    hand = Attribution().of(process.pid)
    assert hand is not None
    assert "could not be looked at" in hand.detail


def test_what_is_kept_is_bounded(start: Start) -> None:
    known = Attribution(known_max=2)
    for _ in range(3):
        known.of(start().pid)
    assert len(known._known) == 2


def test_many_threads_may_ask_at_once(start: Start) -> None:
    known = Attribution(known_max=2)
    processes = [start() for _ in range(3)]
    wrong: list[object] = []

    def ask() -> None:
        for turn in range(300):
            pid = processes[turn % 3].pid
            hand = known.of(pid)
            if hand is None or hand.pid != pid:
                wrong.append(hand)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- command lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--password=two words", "--password=***"),
        ("DB_PASSWORD=geheim", "DB_PASSWORD=***"),
        ("token=abc", "token=***"),
        ("https://user:pa@ss@host/x", "https://user:***@host/x"),
        ("https://ghp_0123456789abcdef@host/x", "https://***@host/x"),
        ("https://host/x?token=abc&page=2", "https://host/x?token=***&page=2"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("tool --secret abc --other d", "tool --secret *** --other d"),
        ("--author=me", "--author=me"),
        ("host:/srv/tree", "host:/srv/tree"),
        ("--compass=north", "--compass=north"),
    ],
)
def test_secrets_in_an_argument_are_masked(argument: str, shown: str) -> None:
    assert masked(argument) == shown


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["mysql", "-pgeheim", "db"], "mysql -p*** db"),
        (["sshpass", "-p", "geheim", "ssh"], "sshpass -p *** ssh"),
        (["tool", "--token", "abc", "x"], "tool --token *** x"),
        (["tool", "--token", "--x"], "tool --token --x"),
        (["mkdir", "-p", "a"], "mkdir -p a"),
        (["sh", "-c", "a\nb\x1b[31m"], "sh -c a\\nb\\x1b[31m"),
        (["x", ""], "x ''"),
    ],
)
def test_a_command_line_is_one_line_without_secrets(arguments: list[str], shown: str) -> None:
    assert command_of(arguments, COMMAND_MAX_BYTES) == shown


def test_a_long_command_line_is_cut_by_bytes() -> None:
    shown = command_of(["ä" * 1000], COMMAND_MAX_BYTES)
    assert len(shown.encode()) <= COMMAND_MAX_BYTES
    assert shown.endswith("…")


@pytest.mark.parametrize(
    "made", ["token" * 400, "a" * 2000 + "=", "--" + "-token" * 300, "a://" * 500, "a+" * 1000]
)
def test_a_command_line_made_to_cost_time_costs_little(made: str) -> None:
    before = time.process_time()
    masked(made + " =")
    assert time.process_time() - before < 0.5


# --- control groups ------------------------------------------------------------------------------

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/apache2.service\n", "apache2.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service\n", "sync.service"),
        ("4:memory:/x\n1:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
        (f"0::/system.slice/docker-{ID}.scope\n", "docker container 0123456789ab"),
        (f"12:cpu:/docker/{ID}\n", "docker container 0123456789ab"),
        (f"0::/kubepods.slice/pod1.slice/cri-containerd-{ID}.scope\n", "containerd container 0123456789ab"),
        (f"0::/docker/{ID}/system.slice/x.service\n", "x.service in docker container 0123456789ab"),
        ("0::/lxc.payload.web/system.slice/x.service\n", "x.service in container web"),
        ("0::/jobs/night\n", "/jobs/night"),
        ("0::/../../x.service\n", "x.service"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit_is_read_from_either_version_of_control_groups(text: str, unit: str) -> None:
    assert unit_of(text) == unit
