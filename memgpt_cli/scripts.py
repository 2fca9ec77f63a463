"""Writing systems, as ranges for a regular expression's character class."""

CJK_LETTERS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Kana, Han (with extension A and compatibility), Hangul syllables."""
CJK = "\u2e80-\u303f" + CJK_LETTERS + "\uff00-\uffef"
"""The same with radicals, punctuation and full-width signs: what is a word of its own where words are counted."""
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
"""Scripts that are looked up by pairs of characters, for the `regex` library: they have no spaces, or (Korean) endings."""
