"""The reporter's rules as values and functions: what is folded how, and how it is shown. No I/O enters here."""
