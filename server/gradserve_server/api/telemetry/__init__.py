"""What operators learn of each request: its line in the log, and its spans in a collector of traces."""
