"""Tasks: runs what the database has queued to happen after a commit."""
