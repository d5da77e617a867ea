"""Reads the code as data, and finds what breaks a rule; the rules themselves are in `tests/test_layering.py`.

A checker takes modules and a rule's table and gives the offences, a line each: `service/engine.py:12: …`.
"""
