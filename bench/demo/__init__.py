"""The demo: a real fleet of sixteen on this machine, a rogue that damages one node, and the way back.

`make demo` runs it. It stands on the same harness as the end-to-end tests (tests/fleet) and believes
nobody: what happened is judged by the rogue's own log and by an independent comparison of all trees.
"""
