"""Many processes as one run: start-up, agreement, supervision, exit codes."""
