"""What people and programs see: HTTP API, events, metrics, reports."""
