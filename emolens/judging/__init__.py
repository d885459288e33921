"""Judges of replies and the sandbox that runs a reply's code."""
