"""Makes a trained run the companion that comes along with the program: `python docs/bundle.py RUN`.

Its weights are kept in bf16, half as many bytes; what results.md says of `companion` was measured with them.
"""

import shutil
import sys
from pathlib import Path

from memgpt_cli.checkpoint import load_model, save_model
from memgpt_cli.checkpoint.runs import BUNDLED, WEIGHTS
from memgpt_cli.checkpoint.untrusted import describe_run

run = Path(sys.argv[1])
model, tokenizer, config = load_model(run / "model")
weights = {k: v.bfloat16() if v.is_floating_point() else v for k, v in model.state_dict().items()}
BUNDLED.mkdir(parents=True, exist_ok=True)
save_model(BUNDLED / "model", weights, tokenizer, config, describe_run(run / "model").notes)
(BUNDLED / "model" / WEIGHTS).chmod(0o644)  # whoever installs the program, everybody talks with it
shutil.copy(run / "config.json", BUNDLED / "config.json")
