"""Notifications: emails and webhooks."""
