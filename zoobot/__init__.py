"""Galaxy Zoo vote-count models in pure PyTorch."""

__version__ = "0.1.0"
