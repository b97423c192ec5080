"""A gate for deployments: a labelled set of pictures run through a served model, clean, attacked and corrupted.

`plan` says what is asked (`budgets` reads ranges), `run` asks, `journal` keeps what was answered, `record` has both.
`figures` counts, `groups` by group, `curves` over budgets, `certified` over radii, `comparison` beside an earlier run,
and `judging` calls them all. `results` writes results.json, `reading` reads it again, `shards` merges several, `junit`
writes for a CI.
"""
