"""The contract between trainer and service: what a bundle holds and how raw values become arrays."""
