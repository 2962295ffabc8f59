"""One incident, told for people: markdown for terminals and tickets, one self-contained HTML page, JSON.

Both forms for people are made of the same `Told` (see `telling`). Paths, reasons and everything a node said are hostile
until escaped: markdown goes through `prose` and `code` only, HTML through Jinja's autoescape only, and the page forbids
scripts, images and connections by its own Content-Security-Policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import jinja2
import msgspec

from ..core import words
from ..core.shapes import IncidentView
from .markdown import code, prose
from .telling import Fact, Moment, Told, tell


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page and the Content-Security-Policy it is to be served with."""

    text: str
    policy: str


# --- the three forms ---------------------------------------------------------------------------------


def as_json(incident: IncidentView) -> bytes:
    """The incident as its GET answers it."""
    return msgspec.json.encode(incident)


def as_html(incident: IncidentView, digest: str, wall_ms: int) -> Page:
    """One page that needs nothing else: it can be mailed, printed and archived."""
    style, hashed = _style()
    policy = f"default-src 'none'; style-src '{hashed}'; base-uri 'none'; form-action 'none'"
    text = (
        _templates()
        .get_template("incident.html")
        .render(told=tell(incident, digest, wall_ms), style=style, policy=policy)
    )
    return Page(text, policy + "; frame-ancestors 'none'")


def as_markdown(incident: IncidentView, digest: str, wall_ms: int) -> str:
    """Fit for a ticket, and readable as it is in a terminal."""
    told = tell(incident, digest, wall_ms)
    out = [f"# {prose(told.title)}", "", f"Incident {code(incident.id)}: {prose(told.state)}.", ""]
    out += [prose(sentence) + "\n" for sentence in told.happened]
    out += _section("At a glance", _bullets(told.facts))
    advice = "".join(code(part) if odd % 2 else prose(part) for odd, part in enumerate(told.advice))
    following = [advice] if advice else []
    following += ["", *(f"- {code(command)}: {prose(what)}" for command, what in told.commands)]
    out += _section("What to do next", following)
    if told.rows:
        out += _section(f"Paths ({incident.path_count:,})", _path_lines(told))
    evidence = [*_bullets(told.evidence), f"- {prose(told.proof)}"]
    evidence += [f"- {prose(entry)}" for entry in told.entries]
    out += _section("Evidence", evidence)
    out += _section("Timeline", [f"- {_moment(moment)}" for moment in told.moments])
    out += _section("What was moved and trashed", [prose(told.moved), "", prose(told.trashed)])
    out += ["---", f"Made {prose(told.generated)} by closeranks.", ""]
    return "\n".join(out)


# --- markdown --------------------------------------------------------------------------------------


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {prose(title)}", "", *lines, ""]


def _bullets(facts: Iterable[Fact]) -> list[str]:
    return [
        f"- {prose(fact.label)}: {code(fact.value) if fact.code else prose(fact.value)}" for fact in facts
    ]


def _path_lines(told: Told) -> list[str]:
    lines = []
    for row in told.rows:
        about = [row.change, *([row.what] if row.what else [])]
        about += [f"chunks {row.chunks}"] if row.chunks else []
        about += [f"came {words.times(row.count)}"] if row.count > 1 else []
        lines.append(f"- {code(row.path)}: {prose('; '.join(about))}")
    if told.rows_left:
        lines += ["", f"and {told.rows_left:,} more."]
    return lines


def _moment(moment: Moment) -> str:
    return f"{moment.date} {moment.time} **{prose(moment.event)}** {prose(moment.text)}"


# --- HTML ------------------------------------------------------------------------------------------


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("closeranks_coordinator.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> tuple[str, str]:
    """(the style sheet, its hash as a Content-Security-Policy names it)."""
    loader = _templates().loader
    assert loader is not None
    style = loader.get_source(_templates(), "incident.css")[0].strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return style, f"sha256-{digest}"
