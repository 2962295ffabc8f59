"""Every bound of the wire and of memory, with its arithmetic. Nothing grows past what stands here.

A frame that a peer sends costs at most a small multiple of its own length to decode, and no frame is
longer than MAX_FRAME_BYTES; a session holds at most CREDIT_COMMITS unacknowledged commits. So one
agent can make the coordinator hold MAX_FRAME_BYTES + CREDIT_COMMITS x COMMIT_MAX_BYTES, about 20 MiB,
and only while it sends a chunk list of a terabyte file; the usual figure is under 1 MiB.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Paths: Linux's PATH_MAX is 4,096 with the final NUL, NAME_MAX 255.
MAX_PATH_BYTES = 4095
MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
# Extended attributes of one entry, names and values together, kept inside the entry. Their lengths come on
# top, 6 bytes each: with names of two bytes, the shortest that can be many, three times as much again.
MAX_XATTRS_BYTES = 64 * KIB

# Content: 1 MiB chunks; one chunk list must fit an object.
CHUNK_BYTES = 1 * MIB
MIN_CHUNK_BYTES = 4 * KIB
MAX_CHUNK_BYTES = 16 * MIB
# 16 MiB of 16-byte digests are 2^20 chunks: a file of 1 TiB in 1 MiB chunks.
MAX_OBJECT_BYTES = 16 * MIB + 64

# Tree: a page closes at a key whose hash has 6 zero bits (64 entries on average) or at either cap.
# (63/64)^512 = 0.03%: the cap on entries is met by about one page in three thousand.
PAGE_BITS = 6
PAGE_MAX_ITEMS = 512
PAGE_MAX_BYTES = 64 * KIB
# One entry is at most two paths and its attributes; a page can exceed PAGE_MAX_BYTES by one item.
ITEM_MAX_BYTES = MAX_PATH_BYTES + MAX_TARGET_BYTES + 4 * MAX_XATTRS_BYTES + 128
PAGE_ENCODED_MAX_BYTES = PAGE_MAX_BYTES + ITEM_MAX_BYTES + PAGE_MAX_ITEMS * 16
# 64 levels of hash bits never occur below 2^60 entries; a deeper tree is an attack or a bug.
TREE_MAX_LEVELS = 16

# Frames.
MAX_FRAME_BYTES = MAX_OBJECT_BYTES + 4 * KIB
FRAME_TARGET_BYTES = 256 * KIB  # bundles of objects or edits are cut here
FRAME_MAX_ITEMS = 4096  # elements of any array in a frame
MAX_TEXT_BYTES = 4 * KIB  # names, reasons, messages

# Commits: cut at either bound; a scan with more edits than SNAPSHOT_EDITS announces its root instead,
# and the coordinator asks for the pages that it lacks.
COMMIT_MAX_EDITS = 512
COMMIT_MAX_BYTES = 256 * KIB
SNAPSHOT_EDITS = 4096
# What an announcement names as decayed: no more paths than a commit has, and less than a frame's hundredth.
DECAYED_MAX = 512
DECAYED_MAX_BYTES = 128 * KIB
# Likewise as brought by us: at least what one push has, with what its edits lead to.
BROUGHT_MAX = 2048
BROUGHT_MAX_BYTES = 512 * KIB
SEQ_MAX = 2**62  # of one agent's steps: numbers go on for ever from here, and fit SQLite's
CREDIT_COMMITS = 16
# The journal of an agent whose coordinator is away: beyond it, edits give way to one snapshot.
JOURNAL_MAX_BYTES = 16 * MIB

# Pushes: what a node is to apply at once. 2,048 edits of some 150 bytes are 300 KB; their chunk lists come on
# top, bounded by the frame: a list beyond PUSH_LIST_MAX_BYTES (a file of 64 GiB) is asked for instead.
PUSH_MAX_EDITS = 2048
PUSH_MAX_BYTES = 4 * MIB
PUSH_LIST_MAX_BYTES = 1 * MIB
# Both sides give up what is left of a push that has made no progress for so long, and longer for what it has to
# fetch: the coordinator makes the next one of where the node is then, and a node that was stopped in the middle
# does not go on with what may have left the truth long ago.
PUSH_GOOD_S = 30.0
PUSH_SLOWEST_BYTES_S = 1 * MIB
# Contents that travel with commits and pushes: of files up to CARRY_FILE_MAX_BYTES, in one frame of at most
# CARRY_MAX_BYTES before the commit or push that names them. A writer sends 16 MiB/s of them at most, an eighth of a
# gigabit wire; the coordinator passes on 64 MiB/s, two thirds of one, and keeps 48 MiB of them, the 5 s for which
# a burst is watched before it spreads at some 8 MiB/s, and for CARRY_KEEP_S at most. Each body counts 240 B besides.
CARRY_FILE_MAX_BYTES = 128 * KIB
CARRY_MAX_BYTES = 8 * MIB
CARRY_SENT_BYTES_S = 16 * MIB
CARRY_AGENT_BYTES = 8 * MIB
CARRY_PASSED_BYTES_S = 64 * MIB
CARRY_COORDINATOR_BYTES = 48 * MIB
CARRY_KEEP_S = 20.0
# Hands in one commit or report: the most active; the rest is counted as unknown.
HANDS_MAX = 16
COMMAND_MAX_BYTES = 512
PARENTS_MAX = 8

# Have/want: digests asked for at once. 256 pages of about 4.4 KB are 1.1 MB.
WANT_MAX_DIGESTS = 256
# Pages held while what is below them is on its way: beyond it, pages are asked for one at a time. A page
# of the shortest refs takes ten times its bytes: 40 MiB, and 26 for 256 such pages that were under way. An
# honest tree of a million entries holds its 250 inner pages, 4 MiB.
CLOSURE_HELD_BYTES = 4 * MIB
# Chunk lists that came lately, so that copies of one file fetch it once: 64 Ki x about 150 bytes are 10 MB.
CLOSURE_RECENT_LISTS = 1 << 16

# Chunk service between agents.
CHUNK_REQUEST_MAX_CHUNKS = 256
CHUNK_STREAMS_MAX = 16  # at once from one server; a few more wait a moment for a place
FETCH_STREAMS_MAX = 6  # at once by one converging node
PEER_TIMEOUT_S = 10.0  # silence of a peer in the middle of a chunk stream

# Sessions.
BEAT_INTERVAL_S = 5.0  # at rest an agent says that it lives at least this often
SILENT_AFTER_S = 15.0  # three beats missed
AUDIT_ANSWER_MAX_S = 30.0  # one chunk, 64 MiB at most, from a disk that others are waiting for as well
GONE_GRACE_S = 3.0  # a closed connection may come back: an agent's restart
RECONNECT_MIN_S = 0.2
RECONNECT_MAX_S = 15.0
HANDSHAKE_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 8.0  # orderly shutdown must end within 10 s

# Lists shown to people.
INCIDENT_MAX_PATHS = 1000
INCIDENT_MAX_TIMELINE = 500
REPORT_MAX_UNREADABLE = 1000
