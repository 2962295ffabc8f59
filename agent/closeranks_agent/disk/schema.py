"""The tables of an index, and how an older one becomes a newer one.

A format is never changed without a number of its own and the way to it from each one before: an index is worth hours
of reading.
"""

from __future__ import annotations

FORMAT = 3
_PACKS = (
    "CREATE TABLE packs (dir BLOB NOT NULL, last BLOB NOT NULL, rows BLOB NOT NULL, PRIMARY KEY (dir, last))"
    " WITHOUT ROWID;"
)
UPGRADES = {
    1: "ALTER TABLE journal ADD COLUMN hands BLOB",  # 1 did not know whose hand a change was
    2: _PACKS,  # 2 had a row for each path
}
SCHEMA = f"""
{_PACKS}
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE entries (
    dir BLOB NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, stat BLOB NOT NULL, settled INTEGER NOT NULL,
    content BLOB, PRIMARY KEY (dir, name)
) WITHOUT ROWID;
CREATE INDEX entries_content ON entries (content) WHERE content IS NOT NULL;
CREATE TABLE listings (
    dir BLOB PRIMARY KEY, digest BLOB NOT NULL, ignored INTEGER NOT NULL, hard_links INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE chunk_lists (digest BLOB PRIMARY KEY, list BLOB NOT NULL, orphan INTEGER NOT NULL DEFAULT 0);
CREATE INDEX chunk_lists_orphan ON chunk_lists (orphan) WHERE orphan;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, base_root BLOB, root BLOB NOT NULL, cause TEXT NOT NULL, edits BLOB,
    bytes INTEGER NOT NULL, seen_mono REAL NOT NULL, seen_wall REAL NOT NULL, boot TEXT NOT NULL, hands BLOB
);
"""
