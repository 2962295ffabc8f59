"""The soak: a fleet under steady writes, rogues and restarts, watched for anything that grows.

    make soak MINUTES=30
    PYTHONPATH=tests:bench .venv/bin/python -m soak [--minutes N] [--nodes N] [--dir DIR] [--seed N]

Memory, descriptors, threads, queues and the event loop's lag of every daemon are sampled each second, judged by
`trend`, written to `bench/results/soak.json` and drawn to `bench/results/soak.svg`. The exit code is 1 when one
grew, when the fleet did not come to rest in rank and equal, or when a log holds a traceback.

The first part of a run fills what is bounded and waits for what comes once (see `life`), and is not sampled: some five
and a half minutes. Where half of the run is not enough for it, the run ends with an error, for its verdict on memory
would say nothing.
"""
