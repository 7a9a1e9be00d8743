"""What was spent: roll-ups of charges, and the reports that are read from them."""
