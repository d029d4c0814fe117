"""The agent's I/O: journal, Kafka, visits to hosts. It carries out effects and decides nothing about attempts."""
