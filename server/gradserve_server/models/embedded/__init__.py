"""Models that come with the server: each folder has a network and its card.

The weights lie beside it, trained by server/training; those of `imagenet` come with a package of their own.
"""
