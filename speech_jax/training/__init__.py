"""The training loop and its parts: state, optimizer, step, sharding, hosts, checkpoints. Knows nothing of speech."""
