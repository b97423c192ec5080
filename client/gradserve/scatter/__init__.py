"""Maps of an indexed data set, as a page and as a picture."""
