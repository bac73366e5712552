"""The training stack of Mimi, Helium and Moshi in JAX."""
