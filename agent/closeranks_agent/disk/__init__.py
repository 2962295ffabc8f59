"""The volume on disk: walked, hashed, indexed, and its history journalled."""
