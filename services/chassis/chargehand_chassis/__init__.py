"""The frame all services bolt onto: settings, keys, Kafka, runner, clock, logs, metrics, health, stores. No domain noun enters here."""
