"""Billing: what is bought and subscribed to at Stripe, and the inbox of its events."""
