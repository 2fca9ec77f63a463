"""Decoding: greedy, sampling and beam search over cached contexts, streaming, post-processing."""
