"""Layers and networks; the only room that imports flax."""
