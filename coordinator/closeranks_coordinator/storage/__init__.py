"""What the coordinator keeps on disk: the store's interface and its SQLite implementation."""
