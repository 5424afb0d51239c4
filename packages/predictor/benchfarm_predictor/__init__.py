"""Latency predictors. What stands at the top needs numpy alone; `training` and `evaluation` need more.

Shapes in docstrings: `n` rows (configurations or kernel lists), `d` features, `u` different kernels.
"""
