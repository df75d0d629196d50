"""The embedded stack: everything `make dev`, `make demo` and `make test` need, without Docker."""
