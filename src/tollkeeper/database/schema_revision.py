"""The revision of the database schema that this version of the code needs."""

SCHEMA_REVISION = "0042"
"""The newest migration in `alembic/versions`; a test compares the two."""
