"""Seeing changes as they happen: sources of hints, and the watcher that turns hints into looks."""
