"""Engines that sample a WaveNet: the plain loop, compiled C for CPUs, and one Pallas kernel for TPUs and GPUs."""
