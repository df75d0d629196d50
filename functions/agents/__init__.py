"""Agents: a system prompt with a model and its parameters, under a name."""
