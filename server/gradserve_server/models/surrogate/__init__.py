"""Surrogates: small networks trained from another model's answers, to craft attacks on (Papernot et al. 2017)."""

from .network import surrogate

__all__ = ["surrogate"]
