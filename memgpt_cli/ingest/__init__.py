"""Files to lines, records, documents and chunks: one set of readers for training data and for memory. Never imports torch."""
