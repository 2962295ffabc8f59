"""Chunks between peers: serving them and fetching them from several at once."""
