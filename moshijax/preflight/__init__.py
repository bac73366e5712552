"""Compiles a config's update for a TPU that is not there, and says what it would take."""
