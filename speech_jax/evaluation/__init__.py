"""Evaluation on the host: WER, CER, MCD, F0, SI-SDR, STOI, attention alignments, reports and their plots."""
