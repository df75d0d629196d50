"""Billing: checkouts of credit packs at Stripe, and the inbox of Stripe's events."""
