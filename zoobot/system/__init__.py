"""Processes, files, memory and errors."""
