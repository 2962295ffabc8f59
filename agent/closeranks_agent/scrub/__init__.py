"""Re-reading contents on a throttled tour, for what no stat tells."""
