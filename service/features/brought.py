"""What a request brings, and the same with what is known beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.rows import Encoded, Items

Fields = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Brought:
    """What a request brings.

    Attributes:
        user_id: None where there is none.
        user: fields of the user's, by name or path.
        context: fields of the context's, by name or path.
        item_ids: the ``N`` candidates.
        inline: fields of single candidates, by position.
        items: the candidates as they stand now; as in the catalogue for None.
    """

    user_id: str | None
    user: Fields
    context: Fields
    item_ids: Sequence[str]
    inline: Mapping[int, Fields]
    items: Items | None = field(default=None, compare=False)

    def encode(self, encoder: Encoder) -> Encoded:
        """As the encoder sees it. Raises FeatureError for a value that it cannot read."""
        return encoder.request(self.user_id, self.user, self.context, self.item_ids, self.inline, self.items)

    def over(self, user: Fields, context: Fields, inline: Mapping[int, Fields]) -> Brought:
        """The same with more fields beneath its own, each by path."""
        # A field that comes by name and by path is read as it comes last, and the context's after the user's.
        context = {path: context[path] for path in context.keys() - self.user.keys()}
        return replace(
            self,
            user=_beneath(self.user, user),
            context=_beneath(self.context, context),
            inline={**self.inline, **{at: _beneath(self.inline.get(at, {}), inline[at]) for at in inline}},
        )


def _beneath(own: Fields, adds: Fields) -> Fields:
    """What a request brings, in its own order, after what it does not."""
    return {**{path: value for path, value in adds.items() if path not in own}, **own} if own else adds
