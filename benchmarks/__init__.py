"""Measurements with public tools; each prints machine, versions and command beside its figures."""
