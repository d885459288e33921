"""What the vectors do: steering, patching, measures of the effect, nulls."""
