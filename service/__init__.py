"""Serving: one user and a list of candidates in, the ordered slate out. Knows no torch and no trainer.

A tour, along a request's way: `wire` (what travels), `api` (HTTP), `ranker` (the whole story in one
function), `registry` (which version), `bundle.encoder` (raw values -> arrays), `batcher` (requests -> batches
of rows), `engine` (arrays -> task scores), `bundle.fusion` (task scores -> one score). `model` holds what one
version needs of these.

And along a version's: `promotion` (stage, wait for every worker, move), `plan` (what a worker does next),
`registry` (does it), `residents` (versions in memory, and who holds them), `versions` (what operators see).

`app` puts everything together, `supervisor` keeps the workers alive, `worker` ends them in order, `cli`
starts it all. `bundle` is the contract with the trainer.
"""
