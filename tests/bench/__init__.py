"""Measurements, not tests: they print what they see and assert nothing about speed."""

import sys
from pathlib import Path

# The modules of tests/ import each other by name alone, since pytest has that folder on its path.
sys.path.append(str(Path(__file__).resolve().parent.parent))
