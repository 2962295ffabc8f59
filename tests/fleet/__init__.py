"""A real fleet on one machine, for the end-to-end tests, the demo and the benchmarks.

Everything here drives the installed `closeranks` program from outside: configuration files, signals and
the HTTP API. Nothing imports the program's packages, so what is proved is what an operator gets. The
standard library suffices, so that the comparison of trees stands on nothing that it is to judge.
"""

from fleet.api import Api, ApiError, EventReader
from fleet.compare import Difference, compare_trees, manifest
from fleet.config import CoordinatorSpec, VolumeSpec, replicated
from fleet.flood_process import Flood
from fleet.local import Fleet, MakeFleet, Node, finish
from fleet.loop_disk import LoopDisk
from fleet.process import Daemon, free_port
from fleet.proxy import CountingProxy
from fleet.reader_process import Reader
from fleet.rogue_process import Rogue
from fleet.tmpfs import Tmpfs
from fleet.trees import copy_tree, photo_tree, small_tree, tree_size
from fleet.waiting import Waited, wait_until

__all__ = [
    "Api",
    "ApiError",
    "CoordinatorSpec",
    "CountingProxy",
    "Daemon",
    "Difference",
    "EventReader",
    "Fleet",
    "Flood",
    "LoopDisk",
    "MakeFleet",
    "Node",
    "Reader",
    "Rogue",
    "Tmpfs",
    "VolumeSpec",
    "Waited",
    "compare_trees",
    "copy_tree",
    "finish",
    "free_port",
    "manifest",
    "photo_tree",
    "replicated",
    "small_tree",
    "tree_size",
    "wait_until",
]
