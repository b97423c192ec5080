"""What the pictures of a data set do in each layer of a model, by an index of them."""
