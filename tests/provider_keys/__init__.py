"""Customers' own provider keys."""
