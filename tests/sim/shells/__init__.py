"""The real shells on invented time: the whole coordinator and whole agents over real files, in one process.

Smaller in scale than the swarm, and nothing of the product is modelled: runtime, sessions, SQLite stores, scans,
converges, chunk servers and aiohttp run as they are. Only what a kernel gives is simulated: time, the network, and
threads, whose work is done on the loop, each piece at a moment of its own.
"""
