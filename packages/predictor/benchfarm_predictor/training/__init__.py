"""Fits predictors. Needs the extra `train`: scikit-learn for trees, PyTorch for networks alone."""
