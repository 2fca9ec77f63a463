"""What the machine can do, and how PyTorch is set up for it."""

import ctypes
import os
import platform
import sys
from dataclasses import replace

import torch

from memgpt_cli.config import TrainerConfig
from memgpt_cli.errors import UsageError
from memgpt_cli.model import MemoryTransformer


def tune_cpu(config: TrainerConfig) -> None:
    """Threads, matrix precision, and a malloc that keeps its pages.

    glibc gives every large freed tensor back to the kernel and faults it in again, page by page: a fifth of the time of a
    training step on two cores (an epoch of the bundled data took 302 s with, 245 s without, side by side).
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision(config.matmul)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no allocation by mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep what was freed


def prepare(model: MemoryTransformer, config: TrainerConfig) -> MemoryTransformer:
    """A loaded model where it will answer: on the GPU if its trainer has one and it is there, else on a tuned CPU.

    A CPU answers in full precision: products of one token are so small that turning them into bf16 takes longer than they
    do (the 500th reply of a chat took 1.4 s of CPU time in `medium`, 0.7 s in `highest`, on a processor with AVX512-BF16).
    """
    tune_cpu(replace(config, threads=min(config.threads, os.cpu_count() or 1)))  # it may have been trained on a larger machine
    wants_gpu = config.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if not wants_gpu:
        torch.set_float32_matmul_precision("highest")
    return model.to("cuda" if wants_gpu else "cpu").eval()


def check_devices(config: TrainerConfig) -> None:
    """Raises UsageError where the trainer asks for GPUs that are not there, with what to type instead."""
    if config.accelerator not in ("gpu", "cuda"):
        return
    found = torch.cuda.device_count()
    if found >= config.devices:
        return
    instead = "trainer=cpu" if not found else "trainer=gpu1" if found == 1 else f"trainer=gpu4 trainer.devices={found}"
    names = f" ({torch.cuda.get_device_name(0)})" if found else ""
    raise UsageError(f"trainer.devices is {config.devices} GPUs, found {found}{names}: type {instead} instead")
