"""Feature rows that change while a version serves: a store, and a cache of it within the worker.

What a request brings beats them, and they beat the tables of the bundle. Knows no HTTP and no wire types.
"""
