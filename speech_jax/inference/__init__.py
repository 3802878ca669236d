"""Inference: recognizers, voices and vocoders loaded from checkpoints, and audio output."""
