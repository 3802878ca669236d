"""Decoding: scores → text (CTC, beam search, words), text → mel (Tacotron 2), mel → samples (WaveNet)."""
