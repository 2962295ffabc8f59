"""The bounds of the main job, measured on real processes."""
