"""Training with Lightning: a thin module, an exact resume, a progress bar."""
