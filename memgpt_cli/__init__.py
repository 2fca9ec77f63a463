"""memgpt: encoder-decoder Transformers with an external memory, from raw text to a chat that remembers.

import memgpt_cli

with memgpt_cli.load("handbook-tiny", store="kb.sqlite") as m:
    reply = m.ask("where is the kettle of room K17 ?")
    print(reply.text, reply.read[0].text)
    kept = m.remember("the kettle of room K17 is broken")
    m.forget(kept.ids)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memgpt_cli.inference.session import Session

__version__ = "0.1.0"


def load(run: str = "", store: str | None = None, namespace: str = "", **settings: Any) -> "Session":
    """A trained model that answers, and the store it reads, made where there is none: see `inference.session.Session`.

    Args:
        run: its name in `runs/` or its folder, the newest where empty; or pretrained weights in Hugging Face format.
        store: a path or URL, empty for the user's own store; None reads none.
        namespace: whose memory; the user's name where empty.
        settings: what `Session.open` takes besides, such as `overrides=["generate.beams=4"]`.

    Raises:
        MemgptError: with what was found, what was expected, and what to type.
    """
    from memgpt_cli.inference.session import load as open_session

    return open_session(run, store, namespace, **settings)
