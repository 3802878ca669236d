"""Checkpoints of other toolkits, in and out, as artifacts; used by the front door `convert` only."""
