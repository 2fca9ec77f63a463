"""Dialog bAbI's task 5 with other cuisines and cities, drawn for each dialogue anew: `python docs/unseen_names.py SEED FILE`.

None of the forty is in the training data, nor in the lists that renaming makes names of.
"""

import random
import re
import sys
from pathlib import Path

from memgpt_cli.config import bundled_folder
from memgpt_cli.ingest.text import read_text

KNOWN = "british italian spanish french indian", "bombay london madrid paris rome"
OTHERS = (
    "ethiopian peruvian lebanese turkish polish hungarian mexican moroccan greek danish swedish brazilian jamaican persian malay "
    "nepalese tibetan ukrainian cretan basque",
    "oslo tbilisi nairobi lima quito lagos zagreb ankara dublin vienna warsaw havana osaka perth porto kyiv riga tallinn sofia amman",
)

seed, file = sys.argv[1:]
rng, dialogues = random.Random(int(seed)), []
for dialogue in read_text(bundled_folder("dialog_babi") / "task5-tst.txt.xz").strip().split("\n\n"):
    new = {}
    for known, others in zip(KNOWN, OTHERS, strict=True):
        new |= dict(zip(known.split(), rng.sample(others.split(), 5), strict=True))
    dialogues.append(re.sub("|".join(new), lambda found, new=new: new[found.group()], dialogue))
Path(file).write_text("\n\n".join(dialogues) + "\n", encoding="utf-8")
