"""Other people's checkpoints, in and out. Imported by the front door `convert` alone."""
