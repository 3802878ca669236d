"""Hand-written inner loops: Pallas attention, and the WaveNet step in C and Pallas; each equals a plain twin."""
