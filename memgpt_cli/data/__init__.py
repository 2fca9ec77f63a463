"""From raw text to batches: sources, preprocessing, augmentation, batching."""
