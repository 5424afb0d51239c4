"""Benchfarm's store: Postgres and stored files.

A use case is a function whose first argument is the transaction; nobody else writes. `tables` is private.
"""
