"""Inference engines behind one interface, and the runner that measures with them.

``launch`` is for the agent's process and imports nothing heavy; ``runner`` and ``reference`` are programs of
their own, started by it. An engine is one module here and one line in ``registry``.
"""
