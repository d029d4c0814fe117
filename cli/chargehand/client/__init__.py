"""Chargehand for programs, with two faces and one vocabulary: `http.Client` and `kafka.KafkaClient`.

`http` reads and commands as a person (a token); `kafka` as an enrolled program (its own key: signed commands out, events and
notifications in). Nothing is imported here: a program takes the one it needs.
"""
