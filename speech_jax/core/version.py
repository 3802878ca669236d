"""Version of the package and address of its repository, in a module that every room may import. setup.py runs it."""

__version__ = "0.1.0"
REPOSITORY = "https://github.com/speech-jax/speech_jax"  # not published yet
