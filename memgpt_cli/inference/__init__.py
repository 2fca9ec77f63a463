"""From an input to an answer, by one path: a session, a prompt, what is recalled, and decoding."""
