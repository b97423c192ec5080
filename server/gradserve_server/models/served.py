"""Which models of a configuration a server can be asked for, and why it cannot be asked for the others."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from .card import ModelCard
from .tiles import DenseHead

# The folders of an absolute path, which is no part of a word, of a relative path or of a URL.
FOLDERS = re.compile(r"""(?<![\w/.~-])(?<!:/)~?/(?:[^\s/'",;:()]+/)+(?=[^\s/'",;:()])""")


def not_served(name: str, reason: str) -> str:
    """What a server that starts, and `gradserve check`, say of a model that cannot be served."""
    return f"model {name} is not served: {reason}"


def without_folders(reason: str) -> str:
    """A reason as callers are told it: files without the folders of the server's host, which its log has."""
    return FOLDERS.sub("", reason)


class ServedModels(Mapping[str, ModelCard]):
    """The cards of the models that can be used, by name, and the reasons of those that could not be loaded.

    The default model is the first of the configuration, even if it is one that could not be loaded: requests that name
    no model are never given to another one.
    """

    def __init__(
        self,
        cards: Iterable[ModelCard] = (),
        unavailable: Mapping[str, str] | None = None,
        default: str = "",
        generation: int = 0,
    ) -> None:
        """`unavailable`: reasons by name. `default`: name of the default model; left out: the first card's.

        `generation`: of the workers that have loaded them; each change of the models makes a new one.
        """
        self._cards = {card.name: card for card in cards}
        self.unavailable = dict(unavailable or {})
        self.default = default or next(iter(self._cards), "")
        self.generation = generation
        self.dense_heads: dict[str, DenseHead] = {}  # What workers have found of the models that Dense was asked about.

    def only(self, names: Collection[str]) -> "ServedModels":
        """Those of these names. The default model stays the same, also where it is none of them."""
        cards = [card for card in self._cards.values() if card.name in names]
        unavailable = {name: reason for name, reason in self.unavailable.items() if name in names}
        found = ServedModels(cards, unavailable, self.default, self.generation)
        found.dense_heads = self.dense_heads
        return found

    def __getitem__(self, name: str) -> ModelCard:
        return self._cards[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)
