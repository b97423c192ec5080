"""Served models: the catalogue, loading, and what makes a network ready for the engine."""
