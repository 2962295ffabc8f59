"""Whose hand wrote, what it is doing now, and what may be done about it."""
