"""Judges ways to make predictors on recorded measurements: no services, any measurement set."""
