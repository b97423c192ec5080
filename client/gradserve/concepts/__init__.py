"""Concepts for the command line: which pictures are sent, and the page that tells of the answer."""
