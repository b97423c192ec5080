"""One device's loop: jobs ask for gradients, and every step answers rows of many jobs in one pass."""
