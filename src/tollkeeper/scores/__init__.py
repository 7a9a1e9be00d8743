"""What judges have said of answers, added up per day. `gateway/evaluation.py` has answers rated."""
