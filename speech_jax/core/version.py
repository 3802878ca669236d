"""Version of the package, in a module that every room may import. setup.py reads it as text."""

__version__ = "0.1.0"
