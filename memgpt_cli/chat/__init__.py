"""A conversation that remembers."""
