"""Run by a process of its own: what transformers makes of an exported folder. It imports nothing of memgpt."""

import json
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(folder: str, asked: str, answered: str, most: str) -> None:
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = load_file(asked)
    inputs, targets = given["inputs"], given["targets"]
    logits = torch.zeros(*targets.shape, model.config.vocab_size)
    rows = []
    with torch.inference_mode():
        for n, (text, target) in enumerate(zip(inputs, targets, strict=True)):
            text, target = text[text != 0][None], target[target != 0][None]
            logits[n, : target.shape[1]] = model(input_ids=text, labels=target).logits[0]
            # no cache: transformers' own breaks where the decoder is deeper than the encoder
            settings = {"do_sample": False, "max_new_tokens": int(most), "use_cache": False, "suppress_tokens": [0]}
            rows.append(model.generate(text, **settings)[0, 1:])
    said = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    save_file({"logits": logits, "said": said.contiguous()}, answered)
    ids = [tokenizer(text).input_ids for text in json.load(sys.stdin)]
    print(json.dumps({"ids": ids, "version": transformers.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
