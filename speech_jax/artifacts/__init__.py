"""Checkpoint folders read and written as a recognizer, a voice or a vocoder: config, parameters, assets."""
