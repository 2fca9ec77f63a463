"""From an input to the stored entries that belong beside it: the only retrieval policy."""

from collections.abc import Sequence

from memgpt_cli.inference.encoder import Encoder
from memgpt_cli.store import Filter, Store, Stored


class Recall:
    """Entries of one namespace for inputs: by vector and by word, in the order they came.

    Args:
        k: how many, for each input.
        by_vector: whether vectors are compared at all. A model whose training never had to choose among entries has learned
            nothing that ranks them.
        share: of the vectors where both are compared.
    """

    def __init__(
        self, store: Store, namespace: str, encoder: Encoder, k: int, by_vector: bool = True, share: float = 0.5
    ) -> None:
        self.store, self.namespace, self.encoder, self.k, self.by_vector = store, namespace, encoder, k, by_vector
        self.share = share
        self._revision = -1

    def __call__(
        self, inputs: Sequence[str], kinds: tuple[str, ...] = (), without: frozenset[int] = frozenset()
    ) -> list[list[Stored]]:
        """The best `k` entries for each input, of these kinds (any where empty), and none of the ids in `without`."""
        self._forget_states()
        if not inputs or not self.k:
            return [[] for _ in inputs]
        queries = self.encoder.queries(inputs) if self.by_vector else None
        where = Filter(kinds=kinds, without=without)
        found = self.store.search(self.namespace, queries, list(inputs), self.k, where, self.share)
        return [sorted((hit.entry for hit in hits), key=lambda entry: (entry.last_said, entry.id)) for hits in found]

    def _forget_states(self) -> None:
        """What others have edited or forgotten since the last question is not kept here either."""
        revision = self.store.revision(self.namespace)
        if revision != self._revision:
            there = self.store.get(self.namespace, sorted(self.encoder.states.ids()))
            self.encoder.states.keep({entry.id: entry.version for entry in there})
            self._revision = revision
