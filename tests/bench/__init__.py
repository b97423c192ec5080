"""Measurements, not tests: they print what they see and assert nothing about speed."""
