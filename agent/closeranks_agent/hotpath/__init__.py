"""The hot path: reading and hashing in processes of their own, for whoever has much to read."""
