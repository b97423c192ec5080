"""From arguments to request messages, and from reply messages to results: pure functions, a module for each subject."""
