"""Data: sources and recipes of speech sets, the plan of batches, and the input pipeline."""
