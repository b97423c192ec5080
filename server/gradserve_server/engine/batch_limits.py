"""What a row costs, and how many of them a pass takes where the configuration says nothing."""

import torch

IMAGENET_PIXELS = 224 * 224
CPU_ROWS, CPU_MOST = 8, 15  # at 224 px, and at most: from 16 on oneDNN takes kernels that round otherwise
MAX_CPU_ROWS_FAST = 64  # FAST rounds anyway
GPU_ROWS, GPU_MOST = 64, 256
GRADIENT_COST = 3  # a forward and backward pass to the image costs about three forwards


def passes_cost(forward: float, wrt: str) -> float:
    """The cost of a row, given its forward's: a backward to the image costs about two more."""
    return forward * (GRADIENT_COST if wrt == "image" else 1)


def default_rows(
    device: torch.device, height: int, width: int, precision: str = "exact", most: int | None = None
) -> int:
    """Rows per pass where the configuration says nothing; `most` replaces the precision's own upper bound."""
    at_grid = GPU_ROWS if device.type == "cuda" else CPU_ROWS
    return max(1, min(most or most_rows(device, precision), at_grid * IMAGENET_PIXELS // max(1, height * width)))


def most_rows(device: torch.device, precision: str) -> int:
    """Rows per pass at most where the configuration says nothing, however small the images."""
    if device.type == "cuda":
        return GPU_MOST
    return MAX_CPU_ROWS_FAST if precision == "fast" else CPU_MOST
