"""WaveNet sampling: mel frames → samples, in chunks of one size, by interchangeable engines."""
