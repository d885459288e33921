"""Is a monitor any good: on conversations, on what a steered model writes."""
