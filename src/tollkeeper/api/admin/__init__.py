"""The admin API: for operators, and for the administrators of one tenant."""
