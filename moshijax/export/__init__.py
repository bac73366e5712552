"""Weights of trained runs, as files for others."""
