# Generated from progress.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that progress.proto knows, as types."""

from typing import Literal

Optimizer = Literal["adam", "ascent", "normalized_ascent", "lbfgs"]
