"""Helium and Moshi: language models over streams of codes."""
