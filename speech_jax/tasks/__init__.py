"""One file per task: network, batch, objective, metrics, and how a run of it is resolved and used."""
