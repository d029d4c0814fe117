"""Chargehand's client, command line and `up`. Nothing is imported here, so that `chargehand --help` starts at once."""
