"""Tests of tasks: the outbox in SQL, the runner, and real worker processes."""
