"""Cutting documents into entries, with a record of where each piece came from."""

from memgpt_cli.data.clean import split_text
from memgpt_cli.schema import Entry


def chunk(text: str, chars: int) -> list[tuple[int, str]]:
    """Pieces of at most `chars` characters, cut at paragraphs, then sentences, then words; (offset, piece) in order.

    Joined again, the pieces are the text.
    """
    pieces: list[str] = []
    for piece in split_text(text, lambda part: len(part) <= chars):
        if pieces and (len(pieces[-1]) + len(piece) <= chars or not piece.strip()):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    offset, out = 0, []
    for piece in pieces:
        out.append((offset, piece))
        offset += len(piece)
    return out


def chunk_entries(text: str, chars: int, **meta: object) -> list[Entry]:
    """Chunks as entries without the white space around them; the offset of each is kept."""
    return [Entry(piece.strip(), "chunk", {**meta, "offset": offset}) for offset, piece in chunk(text, chars) if piece.strip()]
