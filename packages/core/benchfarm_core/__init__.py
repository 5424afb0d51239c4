"""Benchfarm's values and rules: what things are called and which moves are allowed.

Nothing here reads a clock, a file, a socket or a random number; times come in as arguments. The one
module that talks to the kernel is ``confine``, which the two limited children import and nobody else.
"""
