"""Reports: what they say, and that hostile names stay names in markdown and in HTML."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from closeranks_coordinator.core.shapes import IncidentView, PathView, TimelineView
from closeranks_coordinator.web.markdown import code, prose
from closeranks_coordinator.web.plain import as_text
from closeranks_coordinator.web.report import as_html, as_json, as_markdown
from closeranks_coordinator.web.telling import tell
from closeranks_proto.lines import printable

AT = "2026-03-01T19:38:12.410Z"
NOW_MS = 1_772_394_000_000  # 2026-03-01T19:40:00Z
HOSTILE = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "`rm -rf /`",
    "``` fence",
    "# heading",
    "- item",
    "1. item",
    "| a | b |",
    "*bold* _under_ ~~gone~~ **b**",
    "&lt;b&gt; &amp;amp;",
    "<https://evil.example>",
    "www.evil.example",
    "https://evil.example/a",
    "somebody@evil.example",
    "{{ 7 * 7 }} {% raw %}",
    "\\*not\\* \\x1b[31m",
    "--- \\n===",
    "$x$ $$y$$",
    "\u202egnp.exe",
    "a`b``c",
    "`",
    " ",
)


def incident(
    paths: tuple[PathView, ...] = (),
    text: str = "node-07 differs",
    closed_at: str | None = None,
    **changed: object,
) -> IncidentView:
    made = IncidentView(
        "i-000042", "divergence", "closed" if closed_at else "open", "node-07", "photos", AT, closed_at, text,
        "Look at it: `closeranks diff photos node-07`. Then wait.", paths, len(paths) + 10, 3, (),
        (TimelineView(AT, "detected", text), TimelineView(AT, "resync_started", "15 sources")),
        {
            "coverage": "16/16 compared", "decided_by": "quorum: 15 of 16", "need": 9,
            "voters": ["node-01", "node-02"], "node_root": "f8" * 16, "truth_root": "17" * 16,
            "digest": "xxh3-128", "digest_proves": "finds accidents; no evidence against tampering",
            "entries": [text],
        },
        50_331_648, 12,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def path(name: str) -> PathView:
    return PathView(name, "eA==", "modified", ("content",), ((0, 3), (7, 7)), 100, 2)


def test_what_a_report_does_not_list_is_counted() -> None:
    view = incident((path("a"),))
    assert tell(view, "xxh3-128", NOW_MS).entries[-1] == "and 10 more paths"
    whole = msgspec.structs.replace(view, path_count=1)
    assert tell(whole, "xxh3-128", NOW_MS).entries == ("node-07 differs",)
    ranges = tuple((number * 2, number * 2) for number in range(64))
    many = incident((PathView("a", "eA==", "modified", ("content",), ranges),))
    assert tell(many, "xxh3-128", NOW_MS).rows[0].chunks.endswith(" and at least 56 more ranges"), (
        "64 are kept"
    )


def test_a_node_without_its_tree_is_not_said_to_be_silent() -> None:
    gone = incident(kind="outage", volume=None, evidence={"tree": "photos"})
    assert tell(gone, "xxh3-128", NOW_MS).title == "node-07 does not have its copy of photos"
    assert tell(incident(kind="outage", volume=None), "xxh3-128", NOW_MS).title == "node-07 went silent"


def test_a_writer_has_a_line_of_its_own_on_the_page() -> None:
    page_html = as_html(incident(writers=("/usr/bin/php (pid 4711)",)), "xxh3-128", NOW_MS).text
    assert '<div class="wide"><dt>Written by</dt><dd>/usr/bin/php (pid 4711)</dd></div>' in page_html


def test_an_undetermined_path_differs_from_no_truth_and_a_missing_one_has_no_chunks() -> None:
    unclear = incident((path("a"),), kind="undetermined", node=None)
    row = tell(unclear, "xxh3-128", NOW_MS).rows[0]
    assert (row.mark, row.what, row.chunks) == ("?", "no entry of it has a quorum", "")
    missing = incident((PathView("a", "eA==", "missing", ("presence",), ((0, 3),)),))
    row = tell(missing, "xxh3-128", NOW_MS).rows[0]
    assert (row.mark, row.what, row.chunks) == ("-", "not on this node", "")


def test_a_report_tells_a_volunteer_everything() -> None:
    view = incident((path("2026/IMG_0001.jpg"),))
    for text in (
        as_markdown(view, "xxh3-128", NOW_MS),
        as_text(tell(view, "xxh3-128", NOW_MS)),
        html.unescape(as_html(view, "xxh3-128", NOW_MS).text),
    ):
        for told in (
            "node-07 broke ranks", "i-000042", "open", "2026-03-01 19:38:12 UTC", "108 s later", "2026/IMG_0001.jpg",
            "chunks 0-3, 7", "16/16 compared", "quorum: 15 of 16", "node-01 and node-02", "17" * 16, "f8" * 16,
            "xxh3-128", "no evidence against tampering", "50 MB", "12 files", "and 10 more",
            "closeranks trash list node-07 --incident i-000042", "closeranks trash restore node-07 photos ID --to",
            "closeranks diff photos node-07", "resync started", "3 times",
        ):  # fmt: skip
            assert told in text, told


def test_the_text_for_a_terminal_has_no_escapes_and_says_first_what_to_do() -> None:
    names = tuple(path(f"2026/*{number}_[x].jpg") for number in range(40))
    view = incident(names, text="node-07 wrote a_b_ (by *php*), 20% [more] than usual")
    text = as_text(tell(view, "xxh3-128", NOW_MS))
    assert "node-07 wrote a_b_ (by *php*), 20% [more] than usual." in text
    assert "\\" not in text
    assert "  * 2026/*0_[x].jpg   (content; chunks 0-3, 7; came twice)" in text
    assert "and 40 more   (closeranks incident i-000042 --format md: more)" in text
    assert "2026/*10_" not in text
    titles = [line for line in text.splitlines() if line.isupper()]
    assert titles[0] == "WHAT TO DO"
    assert "  Look at it: `closeranks diff photos node-07`. Then wait." in text.splitlines()


def test_an_advice_of_two_ways_is_two_lines() -> None:
    view = incident(
        advice="It waits. If wanted: `closeranks allow h-1`. If not: stop it, `closeranks reject h-1`."
    )
    lines = as_text(tell(view, "xxh3-128", NOW_MS)).splitlines()
    at = lines.index("WHAT TO DO")
    assert lines[at + 1 : at + 4] == [
        "  It waits.", "  If wanted: `closeranks allow h-1`.", "  If not: stop it, `closeranks reject h-1`.",
    ]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_can_not_drive_a_terminal(hostile: str) -> None:
    view = incident((path(hostile + "\x1b[2J"),), hostile + "\x1b[2J\nforged line")
    text = as_text(tell(view, "xxh3-128", NOW_MS))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\nforged" not in text


def test_one_chunk_from_the_beginning_says_nothing_and_is_not_said() -> None:
    """It read as if no chunk differed: chunks 0."""
    small = PathView("a", "eA==", "modified", ("content",), ((0, 0),), 10, 1)
    new = PathView("b", "eA==", "added", (), ((0, 3),), 10, 1)
    rows = tell(incident((small, new)), "xxh3-128", NOW_MS).rows
    assert [row.chunks for row in rows] == ["", ""]


def test_an_incident_began_when_the_first_of_it_was_seen() -> None:
    """It is opened once the difference has lasted for settle_s: by then it is half a minute old, or ten."""
    view = incident(closed_at="2026-03-01T19:39:12.410Z")
    seen = TimelineView("2026-03-01T19:37:42.410Z", "detected", "node-07 differs")
    told = tell(msgspec.structs.replace(view, timeline=(seen, *view.timeline)), "xxh3-128", NOW_MS)
    assert told.state == "closed, after 90 s"
    assert "It began 2026-03-01 19:37:42 UTC and was over 90 s later" in told.happened[1]
    assert [fact.value for fact in told.facts if fact.label == "Since"] == ["2026-03-01 19:37:42 UTC"]


def test_a_closed_incident_says_when_it_ended_and_what_it_took() -> None:
    view = incident(closed_at="2026-03-01T19:39:12.410Z", bytes_moved=0, files_trashed=0)
    text = as_markdown(view, "xxh3-128", NOW_MS)
    assert "was over 60 s later, 2026-03-01 19:39:12 UTC" in text
    assert "No file contents were moved" in text
    assert "Nothing was set aside" in text
    assert "trash list" not in text


def test_how_long_the_trash_keeps_it_is_said_for_open_and_for_closed_incidents() -> None:
    """A report of what is over told that it stays until that is closed."""
    assert "at least until this incident is closed" in as_markdown(incident(), "xxh3-128", NOW_MS)
    closed = as_markdown(incident(closed_at="2026-03-01T19:39:12.410Z"), "xxh3-128", NOW_MS)
    assert "until this incident is closed" not in closed
    assert "stays for trash_keep_s of the volume (by default seven days)" in closed


@pytest.mark.parametrize(
    "kind",
    [
        "outage",
        "undetermined",
        "many_suspects",
        "duplicate_node",
        "regression",
        "recurrence",
        "runaway",
        "new_kind",
    ],
)
def test_every_kind_has_a_report_although_it_names_nobody(kind: str) -> None:
    view = incident(
        kind=kind, node=None, volume=None, evidence={"suspects": ["a", "b"], "unheard_of": 7}, timeline=()
    )
    text = as_markdown(view, "blake3", NOW_MS)
    assert "nobody is accused" in text
    assert "a and b" in text
    assert "Unheard of: 7" in text
    assert "tamper-evident" in text
    assert "<h1>" in as_html(view, "blake3", NOW_MS).text


def test_json_is_the_incident_as_its_get_answers_it() -> None:
    view = incident((path("a"),))
    assert msgspec.json.decode(as_json(view), type=IncidentView) == view


# --- markdown --------------------------------------------------------------------------------------


def rendered(text: str) -> tuple[str, set[str]]:
    """(the text that a reader sees, the kinds of tokens) of markdown with tables, strikethrough and links."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown: list[str] = []
    kinds: set[str] = set()

    def visit(tokens: list[Token]) -> None:
        for token in tokens:
            kinds.add(token.type)
            if token.type in ("text", "code_inline", "text_special"):
                shown.append(token.content)
            visit(token.children or [])

    visit(parser.parse(text))
    return "".join(shown), kinds


PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
LIST = {"bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"}
MARKUP = {
    "html_inline",
    "html_block",
    "link_open",
    "image",
    "fence",
    "code_block",
    "table_open",
    "s_open",
    "em_open",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_prose_shows_as_it_is_and_means_nothing(text: str) -> None:
    shown, kinds = rendered(prose(text) + " end")
    assert kinds <= PLAIN, kinds
    assert shown == f"{printable(text)} end".strip()
    assert "www.evil" not in prose(text)
    assert not re.search(r"(?<!\\)://", prose(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_code_shows_as_it_is(text: str) -> None:
    shown, kinds = rendered(f"- {code(text)}")
    assert "code_inline" in kinds or not text.strip()
    assert kinds <= PLAIN | {
        "bullet_list_open",
        "bullet_list_close",
        "list_item_open",
        "list_item_close",
        "code_inline",
    }
    assert shown.strip() == printable(text).strip()


@given(st.text(min_size=1, max_size=60))
def test_no_text_at_all_becomes_markup(text: str) -> None:
    _, kinds = rendered(f"- x {prose(text)}\n- {code(text)}")
    assert kinds <= PLAIN | LIST | {"code_inline"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_whole_markdown_report_of_hostile_names_has_no_markup_but_its_own(text: str) -> None:
    view = incident(
        (path(text),), text, evidence={"entries": [text], text: text}, writers=(text,), advice=text
    )
    _, kinds = rendered(as_markdown(view, "xxh3-128", NOW_MS))
    assert not kinds & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "fence",
        "code_block",
        "table_open",
        "s_open",
        "em_open",
    }
    headings = [line for line in as_markdown(view, "xxh3-128", NOW_MS).splitlines() if line.startswith("#")]
    assert len(headings) == 7


def test_ordinary_names_stay_readable_in_a_terminal() -> None:
    assert prose("2026/02/IMG_0001 (1).jpg, 48 MB: done.") == "2026/02/IMG_0001 (1).jpg, 48 MB: done."


# --- HTML ------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "p", "span", "h1", "h2", "section", "dl",
    "div", "dt", "dd", "code", "ul", "li", "ol", "small", "table", "thead", "tbody", "tr", "th", "td", "br", "time",
    "b", "footer",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text_in_html(text: str) -> None:
    view = incident(
        (path(text),), text, evidence={"entries": [text], text: text}, writers=(text,), advice=text
    )
    page = as_html(view, "xxh3-128", NOW_MS)
    reader = Reader()
    reader.feed(page.text)
    assert set(reader.tags) <= ALLOWED
    assert not any(name.startswith("on") or name in ("src", "href", "style") for name, _ in reader.attributes)
    assert printable(text).strip() in "".join(reader.text)


def test_the_page_allows_itself_nothing_but_its_own_style() -> None:
    page = as_html(incident(), "xxh3-128", NOW_MS)
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style is not None
    hashed = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert page.policy.startswith(f"default-src 'none'; style-src 'sha256-{hashed}'")
    reader = Reader()
    reader.feed(page.text)
    shown = dict(reader.attributes[: reader.attributes.index(("name", "viewport"))])
    assert "default-src 'none'" in (shown.get("content") or "")
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_the_first_of_many_paths_are_shown_and_the_rest_counted() -> None:
    told = tell(incident(tuple(path(f"p{n}") for n in range(1000)), path_count=4321), "xxh3-128", NOW_MS)
    assert len(told.rows) == 1000
    assert told.rows_left == 3321
    assert "4,321" in as_html(incident(path_count=4321), "xxh3-128", NOW_MS).text
