"""Notifications: emails, and signed events to webhook endpoints of users."""
