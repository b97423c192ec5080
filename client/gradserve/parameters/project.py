# Generated from project.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that project.proto knows, as types."""

from typing import Literal

ProjectionMethod = Literal["pca", "tsne"]
