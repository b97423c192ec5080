"""The process that keeps a server running: it starts front-ends and workers, and starts again those that die."""
