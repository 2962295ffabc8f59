"""Tests marked `root` are skipped, with the reason, where root may not do all that it may elsewhere."""

from __future__ import annotations

import pytest

from rights import lacking


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None and (why := lacking()):
        pytest.skip(why)
