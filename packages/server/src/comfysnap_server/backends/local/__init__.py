"""Jobs in SQLite, run by a worker process on this machine."""
