"""Admission: who calls, how long a request would wait, and whether it is let in."""
