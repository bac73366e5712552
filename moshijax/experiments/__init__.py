"""Configs to experiments: one module for each kind of thing that is trained."""
