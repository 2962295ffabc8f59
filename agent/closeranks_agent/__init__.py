"""The agent: runs on every server; scans, hashes, streams, serves chunks, converges."""
