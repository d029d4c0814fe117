"""Ways to reach hosts, behind one port (port.py). A provider knows nothing of Kafka, journals or job invocations."""
