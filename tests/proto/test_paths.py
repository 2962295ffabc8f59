"""Paths, keys and their printable form."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.errors import PathError
from closeranks_proto.limits import MAX_PATH_BYTES
from closeranks_proto.paths import check_key, escape, key_of, parent_key, path_of, subtree_range, unescape

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=500)

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
paths = st.lists(names, min_size=1, max_size=5).map(b"/".join)
texts = st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))
anything = (
    st.binary(max_size=40)
    | texts
    | st.sampled_from([b"\\", b"\\n", b"\n", b"\\x0a", b"\xc3\xa9", b"\\\\x41"])
)


@FIXED
@given(paths)
def test_keys_of_paths_are_good_and_come_back(path: bytes) -> None:
    assert path_of(check_key(key_of(path))) == path


@FIXED
@given(st.lists(paths, min_size=1, max_size=12))
def test_keys_order_paths_component_by_component(some: list[bytes]) -> None:
    assert sorted(some, key=key_of) == sorted(some, key=lambda path: path.split(b"/"))


@FIXED
@given(paths, paths)
def test_a_subtree_is_one_range_behind_its_directory(directory: bytes, path: bytes) -> None:
    low, high = subtree_range(key_of(directory))
    for candidate in (path, directory, directory + b"/" + path, directory + path):
        assert (low <= key_of(candidate) < high) is candidate.startswith(directory + b"/")
    below = key_of(directory + b"/" + path.split(b"/")[0])
    assert parent_key(below) == key_of(directory)
    assert parent_key(key_of(path.split(b"/")[0])) == b""


@FIXED
@given(st.binary(max_size=60))
def test_a_key_is_good_or_a_path_error(key: bytes) -> None:
    try:
        check_key(key)
    except PathError:
        return
    for name in path_of(key).split(b"/"):
        assert name not in (b"", b".", b"..")


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\0",
        b"a\0",
        b"\0a",
        b"a\0\0b",
        b".",
        b"..",
        b"a\0..\0b",
        b"a\0.",
        b"a/b",
        b"x" * 256,
        b"ab\0" * 1365 + b"a",
    ],
)
def test_bad_keys_are_refused(key: bytes) -> None:
    with pytest.raises(PathError):
        check_key(key)


def test_the_longest_names_and_paths_are_good() -> None:
    check_key(b"x" * 255)
    longest = b"\0".join([b"x" * 255] * 15 + [b"y" * 255])
    assert len(longest) == MAX_PATH_BYTES
    check_key(longest)
    check_key(b"..." + b"\xff\n\x1b")


# --- the printable form --------------------------------------------------------------------------


@FIXED
@given(anything)
def test_escaping_is_reversible(path: bytes) -> None:
    assert unescape(escape(path)) == path


@FIXED
@given(anything, anything)
def test_distinct_paths_stay_distinct(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) is (one == other)


@FIXED
@given(anything)
def test_nothing_that_drives_a_terminal_comes_out(path: bytes) -> None:
    for char in escape(path):
        assert unicodedata.category(char)[0] not in "CZ" or char == " "


def test_escapes_as_documented() -> None:
    assert escape(b"a b\xc3\xa9") == "a b\u00e9"
    assert escape(b"\\ \n \t \r \x1b[31m \xff") == r"\\ \n \t \r \x1b[31m \xff"
    assert escape("\u202e\u2028".encode()) == r"\xe2\x80\xae\xe2\x80\xa8"
    assert unescape(r"\x1B\x1b") == b"\x1b\x1b"


@pytest.mark.parametrize("text", ["\\", "a\\", "\\q", "\\x1", "\\xg0", "\\\\\\", "half \ud800"])
def test_what_escape_does_not_write_is_a_path_error(text: str) -> None:
    with pytest.raises(PathError):
        unescape(text)
