"""Load on a running server: what is sent, when, and what came of it.

`mix` says what is asked, `requests` makes its bytes, `arrivals` says when they are due, and `sender` sends them in one
of the `loops`. `figures` is what is read from the samples, `capacity` finds the rate that a server can do, and `page`
draws it all with `charts`.
"""
