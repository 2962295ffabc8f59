"""What an agent calls itself is the version that is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

from closeranks_agent.link import SOFTWARE


def test_the_agent_tells_the_version_of_the_package() -> None:
    top = Path(__file__).parents[2]
    version = tomllib.loads((top / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"closeranks/{version}" == SOFTWARE
    changes = (top / "CHANGELOG.md").read_text("utf-8")
    assert next(line for line in changes.splitlines() if line.startswith("## ")) == f"## {version}"
