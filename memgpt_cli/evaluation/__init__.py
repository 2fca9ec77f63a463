"""Scores with signatures and confidence intervals, and evaluation of a model with its memory ablated."""
