# Generated from inspect.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that inspect.proto knows, as types."""

from typing import Literal

ChannelOrder = Literal["mean", "max"]
