"""Whatever happens to the files: after a scan the root is that of what lies on disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeranks_agent.disk.volume import Volume
from closeranks_proto.messages import Announce, Commit

NAMES = st.sampled_from(["a", "b", "a.b", "é", "\udcff", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("rewrite"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("directory"), PATHS, st.just(0)),
    st.tuples(st.just("symlink"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("remove"), PATHS, st.just(0)),
    st.tuples(st.just("mode"), PATHS, st.sampled_from([0o600, 0o755, 0o4711])),
    st.tuples(st.just("rename"), PATHS, st.integers(0, 5)),
    st.tuples(st.just("scan"), st.just(""), st.just(0)),
    st.tuples(st.just("restart"), st.just(""), st.just(0)),
)
SIZES = (0, 5, 4096, 9000)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def perform(tree: Path, what: str, name: str, number: int, salt: int) -> None:
    """One operation; whatever stands in its way is removed first."""
    path = tree / name
    if what in ("write", "directory", "symlink"):
        for parent in reversed(path.relative_to(tree).parents[:-1]):
            if (tree / parent).is_symlink() or not (tree / parent).is_dir():
                remove(tree / parent)
                (tree / parent).mkdir()
        remove(path)
        if what == "write":
            path.write_bytes(bytes([salt % 256]) * SIZES[number])
        elif what == "directory":
            path.mkdir()
        else:
            path.symlink_to(["x", "..", "/etc", "a/b"][number])
        return
    if not os.path.lexists(path) or any(
        (tree / parent).is_symlink() for parent in path.relative_to(tree).parents
    ):
        return
    if what == "remove":
        remove(path)
    elif what == "rename" and not path.is_symlink():
        target = tree / ["a", "b", "c", "d", "e", "f"][number]
        if target not in (path, *path.parents) and path not in target.parents:
            remove(target)
            path.rename(target)
    elif what == "mode" and not path.is_symlink():
        path.chmod(number | (0o700 if path.is_dir() else 0))
    elif what == "rewrite" and path.is_file() and not path.is_symlink():
        status = path.stat()
        path.write_bytes(bytes([salt % 256]) * SIZES[number])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@settings(
    max_examples=int(os.environ.get("EXAMPLES", "30")), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(operations=st.lists(OPERATIONS, max_size=25))
def test_after_each_scan_the_root_is_that_of_the_disk(
    operations: list[tuple[str, str, int]], tmp_path: Path, tree_dir: Path, make_volume: Callable[..., Volume],
    expected_root: Callable[[Volume], bytes],
) -> None:  # fmt: skip
    for left in [*tree_dir.iterdir(), tmp_path / "state"]:
        remove(left)
    anchor = tree_dir / "stays"  # an empty root would be an unmounted one
    anchor.touch()
    volume = make_volume()
    try:
        for salt, (what, name, number) in enumerate([*operations, ("scan", "", 0)]):
            if what == "scan":
                assert volume.scan().complete
                assert volume.root == expected_root(volume)
                assert_journal_leads_to_the_root(volume)
            elif what == "restart":
                volume.close()
                volume = make_volume()
            else:
                perform(tree_dir, what, name, number, salt)
        time.sleep(0.025)  # past the clock's tick everything settles, and the fast way is taken
        for _ in range(2):
            assert volume.scan().changed == 0
        assert volume.root == expected_root(volume)
    finally:
        volume.close()


def assert_journal_leads_to_the_root(volume: Volume) -> None:
    root = volume.base_root
    for step in volume.pending(0, 10_000):
        match step:
            case Announce():
                root = step.root
            case Commit():
                assert root == step.base_root
                root = volume.tree.edit(root, [(edit.key, edit.value) for edit in step.edits]).root
                assert root == step.root
    assert root == volume.root
