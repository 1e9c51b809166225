"""Showing that a training repeats, finding where it does not, and replaying it."""
