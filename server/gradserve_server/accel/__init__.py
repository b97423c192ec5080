"""Kernels for CPUs: convolutions, and passes in half precision. Nothing here imports the rest of the server."""
