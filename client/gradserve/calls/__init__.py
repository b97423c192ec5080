"""Calls that both clients inherit, a module for each subject; those named aio_ are written by hand."""
