"""Stylised pictures by the hundred: made once, many at a time, and kept as PNG files that say what they are."""
