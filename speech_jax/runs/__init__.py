"""A config becomes a run: what is resolved, read, built, and where it starts."""
