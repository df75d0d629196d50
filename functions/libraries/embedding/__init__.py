"""Vectors of texts: by hashing their words here, or by a model behind an address."""
