"""The coordinator: keeps every node's root, judges, fences, plans; API, CLI and metrics."""
