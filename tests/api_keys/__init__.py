"""API keys: making them, using them, and what they may use."""
