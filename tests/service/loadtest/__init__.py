"""The load generator, against small servers."""
