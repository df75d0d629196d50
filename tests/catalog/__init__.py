"""Providers, models and what people prefer among them."""
