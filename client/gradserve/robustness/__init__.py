"""A gate for deployments: a labelled set of pictures run through a served model, clean, attacked and corrupted.

`plan` says what is asked, `journal` keeps what was answered, `run` asks, `figures` counts, `junit` writes for a CI.
"""
