"""What changes when the vectors are moved (paper, sections 4 and 5)."""
