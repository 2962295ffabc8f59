"""gitignore's rules on bytes; git itself is the oracle where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeranks_agent.disk.ignore import IgnoreRules
from closeranks_proto.errors import UserError


def ignored(patterns: list[str], path: bytes, is_directory: bool = False) -> bool:
    """As a scan does: a path below an ignored directory is never asked for."""
    rules = IgnoreRules(patterns)
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        if rules.matches(b"\0".join(parts[:depth]), True):
            return True
    return rules.matches(b"\0".join(parts), is_directory)


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["*.tmp"], b"a.tmp", True),
        (["*.tmp"], b"deep/er/a.tmp", True),
        (["*.tmp"], b"a.tmpx", False),
        (["*.tmp"], b"a.tmp\n", False),
        (["*.tmp"], b"line\nbreak/a.tmp", True),
        (["cache/**"], b"cache/x", True),
        (["cache/**"], b"cache", False),
        (["cache/**"], b"sub/cache/x", False),
        (["/top"], b"top", True),
        (["/top"], b"sub/top", False),
        (["dir/"], b"dir", False),
        (["a/**/b"], b"a/b", True),
        (["a/**/b"], b"a/x/y/b", True),
        (["a/*"], b"a/x/y", True),
        (["*", "!keep", "!keep/**"], b"keep/x", False),
        (["*.log", "!important.log"], b"important.log", False),
        (["dir", "!dir/x"], b"dir/x", True),
        (["# comment", "", "x"], b"# comment", False),
        ([r"\#x"], b"#x", True),
        ([r"\!x"], b"!x", True),
        (["voilà"], "voilà".encode(), True),
        (["voil?"], "voilà".encode(), False),  # à is two bytes
        (["voil??"], "voilà".encode(), True),
        (["x*"], b"x\xff\xfe", True),
        (["[a-c]x"], b"bx", True),
        (["[!a-c]x"], b"\xe9x", True),
        (["trailing "], b"trailing", True),
        ([r"trailing\ "], b"trailing ", True),
        (["*"], b"x", True),
        (["A"], b"a", False),
    ],
)
def test_a_path_is_ignored_as_gitignore_says(patterns: list[str], path: bytes, expected: bool) -> None:
    assert ignored(patterns, path) is expected


def test_a_pattern_with_a_slash_at_its_end_means_directories() -> None:
    assert ignored(["dir/"], b"dir", True)
    assert not ignored(["dir/"], b"dir", False)
    assert ignored(["dir/"], b"dir/x", False)


def test_an_unignored_directory_under_a_star_is_entered() -> None:
    assert not IgnoreRules(["*", "!keep"]).matches(b"keep", True)


def test_no_patterns_ignore_nothing() -> None:
    assert not IgnoreRules([])
    assert not IgnoreRules([]).matches(b"x", False)


def test_a_pattern_that_is_none_is_a_user_error() -> None:
    with pytest.raises(UserError, match="gitignore"):
        IgnoreRules(["!"])


_NAMES = st.sampled_from(["a", "b", "ab", "a.x", "b.x", "é", "c"])
_SEGMENTS = st.sampled_from(["a", "b", "*", "**", "*.x", "a*", "?", "[ab]", "é", "a?"])
_PATTERNS = st.builds(
    lambda negate, anchor, segments, slash: f"{negate}{anchor}{'/'.join(segments)}{slash}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(_SEGMENTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")
@settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    patterns=st.lists(_PATTERNS, min_size=1, max_size=4),
    paths=st.lists(st.lists(_NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12),
)
def test_git_agrees(tmp_path: Path, patterns: list[str], paths: list[str]) -> None:
    repository = tmp_path / "repository"
    if not repository.exists():
        subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / ".gitignore").write_text("".join(f"{pattern}\n" for pattern in patterns))
    # No file exists, so git takes each path for a file and its parents for directories.
    answer = subprocess.run(
        ["git", "-c", "core.quotePath=false", "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(paths).encode() + b"\0", cwd=repository, capture_output=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )  # fmt: skip
    by_git = set(answer.stdout.split(b"\0")) - {b""}
    assert {path for path in paths if ignored(patterns, path.encode())} == {path.decode() for path in by_git}
