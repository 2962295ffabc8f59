"""The commands that need no fleet: `closeranks hash` and `closeranks compare`."""
