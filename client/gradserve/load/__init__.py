"""Load on a running server: what is sent, when, and what came of it.

`mix` says what is asked, `requests` makes the bytes, `arrivals` the times, `sender` sends, `loops` are the open and the
closed loop, `figures` is what is read from their samples.
"""
