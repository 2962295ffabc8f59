"""The pure core: one event in, effects out. No clock, no socket, no file, no unseeded random."""
