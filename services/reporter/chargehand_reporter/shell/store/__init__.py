"""The reporter's stores: read models and output, on SQLite or PostgreSQL. Rows in, rows out; no rule about jobs enters here."""
