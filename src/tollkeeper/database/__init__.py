"""The connection to SQLite or PostgreSQL: engine, sessions, migrations, row-level security."""
