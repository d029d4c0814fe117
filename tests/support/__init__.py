"""What tests stand on: real brokers, databases and ssh hosts, found or started here, and gone when the run is over.

No assertion about Chargehand enters here; each fixture has a test of its own under tests/integration/support/.
"""
