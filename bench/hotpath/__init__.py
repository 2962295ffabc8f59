"""Reading and hashing: first scans of small files, long files, cold files, a very long one; beside the usual peers.

Everything is in the page cache unless a row says cold. Both sides are timed as whole processes, but for the first scan:
there it is the scan of an agent that runs already, as its own clock tells, index and root on disk included.
"""
