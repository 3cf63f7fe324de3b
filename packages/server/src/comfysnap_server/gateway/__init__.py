"""The HTTP API; it knows only the Backend protocol."""
