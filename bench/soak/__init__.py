"""The soak: a fleet under steady writes, rogues and restarts, watched for anything that grows.

    make soak MINUTES=30
    PYTHONPATH=tests:bench .venv/bin/python -m soak [--minutes N] [--nodes N] [--dir DIR] [--seed N]

Memory, descriptors, threads, queues and the event loop's lag of every daemon are sampled each second, judged by
`trend`, written to `bench/results/soak.json` and drawn to `bench/results/soak.svg`. The exit code is 1 when one
grew, when the fleet did not come to rest in rank and equal, or when a log holds a traceback.

A run of less than twenty minutes does not fill the coordinator's bounded memories (some 12,000 changes), and its
verdict on memory says nothing.
"""
