"""What it costs to know a large tree: rescans, a first scan of a million files, the index, its start, odd shapes."""
