"""Cron: plain idempotent jobs, run when due by the worker or by Modal's dispatcher."""
