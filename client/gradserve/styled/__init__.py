"""Stylised pictures by the hundred: made once, many at a time, and kept as PNG files with a digest of their origin."""
