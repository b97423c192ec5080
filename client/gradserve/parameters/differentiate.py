# Generated from differentiate.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that differentiate.proto knows, as types."""

from typing import Literal

BackwardRule = Literal["plain", "guided", "deconvnet", "lrp_z_plus", "lrp_gamma", "lrp_epsilon"]

GradientFormat = Literal["float32", "bfloat16", "float16"]
