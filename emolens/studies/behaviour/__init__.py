"""Case studies: leverage, reward hacking, sycophancy (paper, section 8)."""
