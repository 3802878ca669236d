"""Tasks: network, batch, objective and metrics of each, and the config that connects it to the program (the plug)."""
