"""Who answers: one file per provider, behind one narrow seam."""
