"""Mimi, the neural audio codec."""
