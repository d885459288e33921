"""How the vectors are arranged (paper, section 6)."""
