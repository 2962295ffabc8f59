"""Faults that a machine can have, made on purpose and on real processes: what the tests in this folder share."""
