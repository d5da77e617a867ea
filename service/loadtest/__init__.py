"""`rankserve loadtest`: an open-loop load generator, a client of the HTTP API and of nothing else.

`plan` says when which request is due, `client` sends, `run` is one generator, `processes` several of them,
`measured` what they found, `notes` what to make of it, `search` which rate to try next.
"""
