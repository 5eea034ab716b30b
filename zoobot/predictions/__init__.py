"""Predictions of catalogs of any size."""
