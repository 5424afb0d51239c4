"""Runs a whole Benchfarm on one machine: embedded Postgres and Valkey, and the supervised process tree."""
