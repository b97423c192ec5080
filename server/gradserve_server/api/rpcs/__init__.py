"""A module for each RPC: from its request to a task, and from the outcome to its reply."""
