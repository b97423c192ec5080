"""What is done without a server: building influence indexes, fine-tuning."""
