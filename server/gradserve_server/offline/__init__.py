"""Commands that need no server: building indexes, fine-tuning, checking models, tuning to the machine."""
