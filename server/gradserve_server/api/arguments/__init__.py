"""Parts of requests that several RPCs share, checked against the model: targets, regions, batches of pictures."""
