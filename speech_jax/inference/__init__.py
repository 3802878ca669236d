"""Models in use: recognizers, voices, vocoders, and where their output goes."""
