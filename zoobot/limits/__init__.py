"""Checks of untrusted files: their size, their depth, and what they claim to hold."""
