"""Scores of tokens while they are written, and a monitor with a known rate of false alarms."""
