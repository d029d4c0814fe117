"""Fixtures and rules of every test: see tests/support/. Nothing is defined here."""

pytest_plugins = ["support.leaks", "support.skips", "support.fixtures"]
