"""The reporter's input and output: Faust, the stores, HTTP. Nothing is decided about jobs here."""
