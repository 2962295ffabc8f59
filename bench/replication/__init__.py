"""Replication, watching and the brake, measured on real processes and beside the usual peers.

Both ends of every figure are read outside the program: the clock of this machine, a process of its own that
watches the replicas, `/proc`, a comparison of trees that shares no code with ours. Syncthing, lsyncd and rsync
are Debian's (`bench/install_peers.sh`); where one is not installed its rows say so.
"""
