"""Weights in and out, without PyTorch."""
