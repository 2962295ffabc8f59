"""Fuzzing of every parser of bytes from outside: what they are, what they may answer, and how to look for more."""
