"""All workers: one process per device, and what crosses the pipes to them."""
