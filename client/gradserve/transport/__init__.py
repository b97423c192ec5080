"""Connections to a server: addresses, channels, health, retries, and why one cannot be reached."""
