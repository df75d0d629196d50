"""What needs torch is run by `make test-gpu`, in an environment of its own that has it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_embeddings.py", "test_transformers_serve.py"]
