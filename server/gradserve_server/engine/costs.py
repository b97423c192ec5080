"""What a row costs."""

GRADIENT_COST = 3  # Cost of a pass forward and backward to the image, in forward passes.


def passes_cost(forward: float, wrt: str) -> float:
    """The cost of a row, in the unit of `forward`, which is what its forward pass costs."""
    return forward * (GRADIENT_COST if wrt == "image" else 1)
