"""From arguments, and the files that they name, to request messages, and from reply messages to results."""
