"""The one frame of all measurements: a registry, interleaved runs, one table, one JSON.

    make bench                     everything; make bench-quick: the part that takes ten minutes
    PYTHONPATH=tests:bench .venv/bin/python -m frame [--quick] [--dir DIR] [NAME...]

A measurement is a function `measure(bench: Bench) -> list[Measured]` that stands in `registry`. It gets an empty
directory and whether it is to be quick; it gives rows. Where it compares with another program, both run in
turns (`interleaved`), and the ratio of each turn is what counts: a slow moment of the machine meets both.
"""
