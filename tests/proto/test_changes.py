"""What a configuration that was read again says to have changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from closeranks_proto.changes import LINES_MAX, changes, told


@dataclass(frozen=True)
class Volume:
    name: str
    settle_s: float = 2.0
    watch: bool = True


@dataclass(frozen=True)
class Config:
    file: str = "x.toml"
    nodes: tuple[str, ...] = ("n1", "n2")
    limit: int | None = None
    volumes: tuple[Volume, ...] = (Volume("photos"), Volume("docs"))
    warnings: tuple[str, ...] = field(default=())


def test_nothing_changed() -> None:
    assert changes(Config(), Config(file="y.toml", warnings=("w",))) == []


def test_each_key_is_told_with_both_values() -> None:
    after = Config(limit=3, volumes=(Volume("photos", 30.0, False), Volume("docs")))
    assert changes(Config(), after) == [
        "limit: not set -> 3",
        "volumes photos.settle_s: 2.0 -> 30.0",
        "volumes photos.watch: true -> false",
    ]


def test_what_came_and_went_is_named() -> None:
    after = Config(nodes=("n2", "n3"), volumes=(Volume("docs"), Volume("mail\n")))
    assert changes(Config(), after) == [
        "nodes: removed n1",
        "nodes: added n3",
        "volumes: removed photos",
        "volumes: added mail\\n",
    ]
    assert changes(Config(), replace(Config(), nodes=("n2", "n1"))) == ["nodes: in another order"]


def test_a_secret_is_named_and_never_told() -> None:
    @dataclass(frozen=True)
    class Token:
        file: str
        secret: str = field(repr=False)

    found = changes((Token("/etc/token", "old"),), (Token("/etc/token", "new"),))
    assert found == [" /etc/token.secret: another one"]


def test_many_changes_are_counted() -> None:
    before = Config(volumes=tuple(Volume(f"v{number}") for number in range(LINES_MAX + 5)))
    after = replace(before, volumes=tuple(replace(one, settle_s=9.0) for one in before.volumes))
    lines = told("x.toml", changes(before, after))
    assert len(lines) == LINES_MAX + 2
    assert lines[0] == f"configuration read again from x.toml: {LINES_MAX + 5} changes"
    assert lines[-1] == "and 5 more changes"
