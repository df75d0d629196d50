"""Billing: checkouts and Stripe's inbox, through the real routes against a double of Stripe."""
