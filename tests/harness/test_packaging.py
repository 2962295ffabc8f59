"""`pip install <checkout>` gives the program and nothing else: three packages, no test code."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_three_packages_and_the_program(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-qw", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
        assert tops == {"closeranks_agent", "closeranks_coordinator", "closeranks_proto"}
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "closeranks = closeranks_coordinator.cli.main:main" in archive.read(entry_points).decode()
        packed = {name for name in names if name.endswith(".py")}
    source = {
        str(path.relative_to(ROOT / folder))
        for folder in ("proto", "agent", "coordinator")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert packed == source


def test_requirements_are_pinned_with_hashes_and_name_no_index() -> None:
    for path in (ROOT / "constraints").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path.name
        pins = re.findall(r"^\S+==\S+.*\\\n(?:\s+--hash=sha256:[0-9a-f]{64}.*\n)+", text, re.MULTILINE)
        named = re.findall(r"^[A-Za-z0-9]\S*", text, re.MULTILINE)
        assert len(pins) == len(named) > 0, path.name


def test_development_uses_the_pins_of_production() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "constraints" / name).read_text()
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE))

    development = pins("dev.txt")
    assert {name: development.get(name) for name in pins("runtime.txt")} == pins("runtime.txt")
    shared = pins("build.txt").keys() & development.keys()
    assert {name: development[name] for name in shared} == {name: pins("build.txt")[name] for name in shared}
