"""The scores that judges give answers, added up per day. `gateway/evaluation.py` has answers rated."""
