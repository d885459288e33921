"""What post-training does to the vectors' scores (paper, section 9)."""
