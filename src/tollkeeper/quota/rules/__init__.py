"""What the ledger decides. Pure: no clock, no database, no waiting."""
