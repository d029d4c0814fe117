"""The demonstration: hosts made for the purpose, a job with a story, and nothing left afterwards."""
