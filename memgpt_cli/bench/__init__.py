"""Measurements of speed and scale, of what others can be compared with."""
