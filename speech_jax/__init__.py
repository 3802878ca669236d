"""Speech models in pure JAX: recognition and synthesis, fine-tuned without losing what they knew."""

__version__ = "0.1.0"
