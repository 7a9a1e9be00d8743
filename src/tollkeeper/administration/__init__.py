"""What administrators do, one function each: checked, done and noted in the audit log in one transaction.

The admin API and the commands call the same functions.
"""
