"""Mutants: the rules taken out one by one, and bugs put in. The simulation must notice."""
