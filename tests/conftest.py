"""Fixtures and rules of every test: see tests/support/. Nothing is defined here."""

pytest_plugins = ["support.workers", "support.leaks", "support.skips", "support.fixtures"]
