"""`make demo`. The last line is `demo: ok|failed, N s, report PATH`; exit 0 only if all of it happened."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from demo import stage, verdict
from demo.acts import Play, Unexpected, seconds_up
from demo.screen import Screen
from demo.settings import NODES, Settings, Wrong, read_settings
from fleet import Fleet
from fleet.trees import TreeSize
from fleet.waiting import Waited


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    try:
        settings = read_settings(dict(os.environ))
        if "--stop" in sys.argv[1:]:
            ended = stage.stop_kept(settings.base)
            screen.plain(
                f"{ended} kept fleet{'' if ended == 1 else 's'} below {settings.base} stopped and removed"
            )
            if not ended:
                screen.plain("one that was started with DEMO_DIR is ended with the same DEMO_DIR")
            return 0
        run = stage.new_run(settings)
        screen.title("closeranks: sixteen servers hold the same files; one breaks ranks")
        fleet, size = stage.lay(settings, run, screen)
    except (Wrong, OSError) as error:
        print(f"the demo can not begin: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return _perform(settings, fleet, size, screen)


def _perform(settings: Settings, fleet: Fleet, size: TreeSize, screen: Screen) -> int:
    play: Play | None = None
    report = fleet.base / "failure.md"
    keep = settings.keep
    seconds = 0.0
    ok = False
    try:
        fleet.start_coordinator()
        screen.plain(f"coordinator: {fleet.api.url}/api/v1/fleet, {NODES} nodes, seed {settings.seed}")
        play = Play(fleet, size, screen, settings.seed)
        report = _acts(play, screen)
        if not keep:
            play.close()
            fleet.stop()
        fleet.check_logs()
        seconds = play.outcome.seconds
        ok = True
    except (Unexpected, Waited, AssertionError) as error:
        report = _failed(fleet, screen, error)
    except KeyboardInterrupt:
        keep = False
        report = _failed(fleet, screen, Unexpected("the demo's end", "it was interrupted"))
    except Exception as error:  # noqa: BLE001 - the last line is promised whatever happens
        report = _failed(fleet, screen, Unexpected("no fault of the demo's own", repr(error)))
        traceback.print_exc()
    finally:
        screen.still()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the way out is not to be interrupted
        if play is not None:
            play.close()
            seconds = seconds or play.elapsed_s()
        _leave(fleet, keep, screen)
    print(f"demo: {'ok' if ok else 'failed'}, {seconds_up(seconds)} s, report {report}", flush=True)
    return 0 if ok else 1


def _acts(play: Play, screen: Screen) -> Path:
    screen.title("1. Sixteen in rank")
    play.form_ranks()
    screen.title("2. One breaks ranks")
    play.break_ranks()
    play.name_and_fence()
    screen.title("3. The way back, while the rogue still writes")
    play.see_recurrence()
    screen.title("4. Back in rank")
    play.return_to_rank()
    verdict.check_blame(play)
    moved, needed = verdict.check_bytes(play)
    verdict.show_table(play, screen, moved, needed)
    verdict.check_nothing_lost(play)
    verdict.check_trees(play, screen)
    return verdict.write_reports(play)


def _failed(fleet: Fleet, screen: Screen, error: BaseException) -> Path:
    expected, seen = (
        (error.expected, error.seen) if isinstance(error, Unexpected) else ("no failure", str(error))
    )
    screen.still()
    screen.title("The demo failed")
    screen.plain(f"expected: {expected}")
    screen.plain(f"seen:     {seen}")
    screen.plain(f"logs:     {fleet.logs}")
    return verdict.write_failure(fleet.base, expected, seen, fleet.story())


def _leave(fleet: Fleet, keep: bool, screen: Screen) -> None:
    if keep and any(daemon.alive for daemon in fleet.daemons):
        stage.keep(fleet)
        screen.plain(
            f"the fleet keeps running: {fleet.api.url}/api/v1/fleet; its trees are in {fleet.base}/nodes"
        )
        place = f"DEMO_DIR={shlex.quote(str(fleet.base.parent))} " if "DEMO_DIR" in os.environ else ""
        screen.plain(
            f"ask it: CLOSERANKS_URL={fleet.api.url} .venv/bin/closeranks status; end it: {place}make demo-stop"
        )
        return
    fleet.kill()
    stage.clear(fleet)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
