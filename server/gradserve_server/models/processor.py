"""Which precisions the device at hand computes fast: known from its instructions and from oneDNN's limit, not timed."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

from .card import ModelCard, Precision
from .catalogue import PRECISIONS, ModelSpec

NEED_BFLOAT16: tuple[Precision, ...] = ("balanced", "fast")
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")  # As torch names them; the last is ARM's.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # Environment variables; oneDNN reads the first that is set.
LIMITS_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


class Choice(NamedTuple):
    """The precisions that a model is loaded in, why it is not loaded in the others, and what to say of the choice."""

    loaded: tuple[Precision, ...]
    absent: Mapping[Precision, str]
    warnings: tuple[str, ...]

    def applied_to(self, card: ModelCard, failed: Mapping[Precision, str]) -> ModelCard:
        """The card with this choice. `failed`: why chosen precisions could not be loaded; AUTO is EXACT for those."""
        notes = (f"{precision.upper()} is not served: {why}" for precision, why in failed.items())
        return replace(
            card,
            precisions=tuple(precision for precision in self.loaded if precision not in failed),
            absent={**self.absent, **failed},
            auto={rpc: precision for rpc, precision in card.auto.items() if precision not in failed},
            notes=(*card.notes, *self.warnings, *notes),
        )


def choose(spec: ModelSpec, device: torch.device) -> Choice:
    """Chooses what the catalogue names, with a warning where that is slow; by default what the device computes fast."""
    named = {*(spec.precisions or ("exact",)), *spec.auto.values(), *spec.rows}
    loaded: list[Precision] = []
    absent: dict[Precision, str] = {}
    warnings = []
    for precision in PRECISIONS:
        reason = slow(precision, device)
        if precision in named and reason:
            name = precision.upper()
            warnings.append(
                f"{name} is slower than EXACT here, and loaded only since the configuration names it: {reason}"
            )
        if precision in named or (spec.precisions is None and not reason):
            loaded.append(precision)
        else:
            slower = f"it would be slower than EXACT here, since {reason}"
            absent[precision] = slower if spec.precisions is None else "its entry in the configuration does not name it"
    return Choice(tuple(loaded), absent, tuple(warnings))


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The precisions that are not slow on the device."""
    return tuple(precision for precision in PRECISIONS if not slow(precision, device))


def slow(precision: Precision, device: torch.device) -> str:
    """Why the device would be slower in this precision than in EXACT, or nothing."""
    return bfloat16_missing(device) if precision in NEED_BFLOAT16 else ""


@cache
def bfloat16_missing(device: torch.device) -> str:
    """Why the device has no fast bfloat16 operations, or nothing where it has them."""
    if device.type == "cpu":
        return _missing_on_cpu()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(device)} has no bfloat16 operations, and emulates them slowly"
    return ""


def _missing_on_cpu() -> str:
    if not torch.backends.mkldnn.is_available():
        return "this build of torch lacks oneDNN, which has the fast bfloat16 operations"
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS):
        return "this processor has no bfloat16 instructions, and emulates them slowly"
    variable = next((name for name in LIMITS if os.environ.get(name)), "")
    limit = os.environ.get(variable, "")
    if limit.upper() in LIMITS_WITHOUT_BFLOAT16:
        return f"{variable}={limit} keeps oneDNN from this processor's bfloat16 instructions"
    return ""
