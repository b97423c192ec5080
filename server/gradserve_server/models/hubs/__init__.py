"""Networks of timm and of Hugging Face's Transformers by name, with their own preprocessing, labels and weights."""
