"""Influence estimates beside what really happens when models are trained again without some examples."""
