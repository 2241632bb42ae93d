"""The version of the package, which is defined here alone."""

__version__ = "0.1.0"
