"""How fast this core multiplies at this moment: unseen neighbours share it, half precision's unit above all."""

import time
from statistics import median

import torch

SIDE = 512
SECONDS = 0.3


def gflops(dtype: torch.dtype) -> float:
    """GFLOP per second of square products in one thread, their median over a moment."""
    a, threads, seen = torch.rand(SIDE, SIDE).to(dtype), torch.get_num_threads(), list[float]()
    torch.set_num_threads(1)
    try:
        late = time.perf_counter() + SECONDS
        while time.perf_counter() < late:
            begin = time.perf_counter()
            a @ a
            seen.append(2e-9 * SIDE**3 / (time.perf_counter() - begin))
    finally:
        torch.set_num_threads(threads)
    return median(seen)
