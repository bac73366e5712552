"""One training loop for every task, its optimizers, logs and checkpoints."""
