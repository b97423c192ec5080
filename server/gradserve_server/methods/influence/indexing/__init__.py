"""What builds an index, a pass over the training set at a time."""
