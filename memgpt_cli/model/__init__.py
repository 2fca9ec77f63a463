"""The memory Transformer in PyTorch."""

from memgpt_cli.model.inputs import Batch
from memgpt_cli.model.transformer import Context, MemoryTransformer

__all__ = ["Batch", "Context", "MemoryTransformer"]
