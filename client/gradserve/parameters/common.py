# Generated from common.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that common.proto knows, as types."""

from typing import Literal

Preprocess = Literal["model_default", "whole_image", "as_is"]

Precision = Literal["auto", "exact", "balanced", "fast"]

Priority = Literal["interactive", "batch"]
