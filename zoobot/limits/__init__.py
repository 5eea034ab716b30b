"""Bounds on files that others wrote."""
