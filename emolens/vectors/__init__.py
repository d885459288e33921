"""Emotion vectors: pooling, the recipe, its variants, directions, geometry."""
