"""The dispatcher: when a job task is due, how often it is tried, and what its one verdict is."""
