"""A real Apache Kafka on one machine, with nothing installed beforehand: found, fetched, formatted, run, stopped.

`EmbeddedKafka` in `kafka.py` is the door; `up`, `demo` and the tests all start their broker through it. No service and no
domain noun enters here.
"""
