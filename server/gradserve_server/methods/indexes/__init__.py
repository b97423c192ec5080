"""What indexes have in common: a folder of memory-mapped files with a manifest, its writing, the pictures it is of."""
