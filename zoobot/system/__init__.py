"""Tools for processes, files, memory and errors, used by all other packages."""
