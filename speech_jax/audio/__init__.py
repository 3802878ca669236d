"""Waveform to features and back: mel, MFCC, mu-law, augmentation, Griffin-Lim, and reading of audio files."""
