"""Layer-wise relevance propagation as rules of the backward pass, by row, without touching the model."""
