"""The simulator: a whole fleet on invented time in one process, from one seed, under every fault.

`python -m sim` plays seeds (`make sim`); `fleet.World` is one seed's world; `invariants` is the table of what must
hold. tests/README.md explains what is simulated, what is not, and why.
"""
