"""Layers that know nothing of audio or text."""
