"""Serving: one user and a list of candidates in, the ordered slate out. Knows no torch and no trainer.

A tour, along a request's way: `wire` (what travels), `api` (HTTP), `ranker` (the whole story in one
function), `registry` (which version, and who holds it), `features` (what is known of the ids),
`bundle.encoder` (raw values -> arrays), `batcher` (requests -> batches of rows), `engine` (arrays -> task
scores), `bundle.fusion` (task scores -> one score). `model` holds what one version needs of these, `app` puts
everything together, `supervisor` keeps the workers alive, `cli` starts it all.
`bundle` is the contract with the trainer.
"""
