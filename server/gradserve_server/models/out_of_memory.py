"""How torch and numpy say that memory has run out."""

import torch

CPU_WORDS = "can't allocate memory"  # The text of the RuntimeError that torch raises on a CPU.


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, has run out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_WORDS in str(error)
