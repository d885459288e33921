"""What the vectors respond to (paper, section 4)."""
