"""What training really takes: two real steps on the batches that the estimate counted, in a process of their own.

python -m memgpt_cli.training.measured DATA_ROOT < config.json      prints bytes
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from memgpt_cli.config import Config, build, to_dict
from memgpt_cli.errors import UsageError
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.training.footprint import model_shape, one_step, sample_batches
from memgpt_cli.training.trainable import choose_trainable, make_optimizer


def measure(config: Config, data_root: Path) -> int:
    """Bytes at the peak: of the GPU's allocator, or of resident memory beyond what the libraries take.

    Raises UsageError where a process's peak cannot be read (neither CUDA nor Linux).
    """
    if not torch.cuda.is_available() and sys.platform != "linux":
        raise UsageError("--measure reads a process's peak from CUDA or from Linux, and finds neither here")
    # glibc keeps what is freed in blocks below this size; the estimate counts what lives
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(data_root.resolve())],
        input=json.dumps(to_dict(config)), capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise UsageError(f"the measured steps failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.splitlines()[-1])


def _status(key: str) -> int:
    found = re.search(key + r":\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def _train(config: Config, data_root: Path, device: str) -> None:
    batches, vocab = sample_batches(config, data_root)
    model = choose_trainable(MemoryTransformer(model_shape(config, vocab)).to(device).train(), config.optim)
    if config.trainer.precision == "bf16-true":
        model.to(torch.bfloat16)
    model.encoder.checkpointing = model.decoder.checkpointing = config.trainer.gradient_checkpointing
    average = copy.deepcopy(model) if config.optim.average else None
    optimizer = make_optimizer(model, config.optim)
    for _ in range(2):
        for batch in batches:
            one_step(model, batch.to(device), config, device)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    del average


def main(data_root: Path) -> None:
    config: Config = build(Config, json.load(sys.stdin))
    warm = torch.nn.Linear(4, 4)  # the optimiser's first step loads a compiler
    optimizer = torch.optim.AdamW(warm.parameters())
    warm(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    if torch.cuda.is_available() and config.trainer.accelerator in ("gpu", "cuda"):
        _train(config, data_root, "cuda")
        print(torch.cuda.max_memory_allocated())
        return
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the libraries' own peak
    _train(config, data_root, "cpu")
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
