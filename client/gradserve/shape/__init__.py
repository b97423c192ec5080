"""Does a network decide by shape or by texture? Pictures with the shape of one class and the texture of another."""
