"""Monitoring of a run: TensorBoard and other trackers, Prometheus, watchdog, progress."""
