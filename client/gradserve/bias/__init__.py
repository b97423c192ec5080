"""Does a network decide by the object, or by what stands around it? Evidence in and outside of objects' masks."""
