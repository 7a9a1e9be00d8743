"""Archives old months of the ledger: exports their charges and entries to files, then removes the rows."""
