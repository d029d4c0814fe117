"""`chargehand up`: Kafka and every service as child processes of one supervisor, on one data directory.

Services are started as programs and settings are all they are told. No service is imported here.
"""
