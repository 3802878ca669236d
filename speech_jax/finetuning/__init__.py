"""Fine-tuning: restore and head surgery, adapters, weight averaging, guards against forgetting."""
