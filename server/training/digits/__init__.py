"""Training `digits`."""
