"""What builds an index of pictures: a pass of the network over the data set, then one over the pictures that won."""
