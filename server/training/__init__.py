"""How the embedded models were trained, but for `imagenet`, whose weights are published by others.

Not part of what is installed: run from the folder `server`.
"""
