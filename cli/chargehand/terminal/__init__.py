"""Words and bytes on their way to a person's terminal: harmless, folded, coloured, in tables. No request is made here."""
