"""The dispatcher as a process: its store and its loops."""
