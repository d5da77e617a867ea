"""Training: a log of impressions in, a verified bundle out. The only home of torch.

A tour: `config` (what to train), `datasets` (raw files -> `impressions`), `models` (a paper a file, made of
`layers`), `losses`, `fit` (the loop), `metrics`, `export` (graphs, parity, the bundle). Of `service` it knows
`bundle` alone; `export` also runs `engine`, to see that what is served is what was trained.
"""
