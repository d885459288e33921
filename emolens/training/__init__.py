"""Fine-tuning a base model with adapters, watched by the vectors."""
