"""memgpt: encoder-decoder Transformers with an external memory, from raw text to a chat that remembers."""

__version__ = "0.1.0"
