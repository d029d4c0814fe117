"""Importers: from files that people have to the hosts of the inventory. Parsing is pure; `reading.py` opens files.

What an inventory says is data: never rendered, never evaluated, never loaded as objects.
"""
