"""The store: embedded or given PostgreSQL, its schema, the writer that drains the spools, and what the API reads."""
