"""Latency predictors. The package holds its place in the layers; no predictor is shipped in this version."""
