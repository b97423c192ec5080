# Generated from the contract by protos/parameter_types.py: `make protos` writes it.
"""The names and parameters that requests take, as types."""
