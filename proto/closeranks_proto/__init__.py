"""What agent and coordinator must agree on, byte for byte. Pure: no I/O, no clock, no randomness."""
