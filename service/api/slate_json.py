"""A slate as JSON, written from its arrays: no object per item is made and checked again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from service.api.slates import about, factors
from service.ranker import Slate


def encode(slate: Slate, request_id: str, *, tasks: bool) -> bytes:
    """A slate as the JSON of a `RankResponse`, the task scores in it where asked for.

    A number that is not finite becomes null.
    """
    head = orjson.dumps(about(slate, request_id))
    return b'%b,"items":[%b]}' % (head[:-1], _items(slate, tasks=tasks))


def _items(slate: Slate, *, tasks: bool) -> bytes:
    """The ranked items, written a column at a time: an object each would cost several times as much."""
    order = slate.order
    columns = {'{"id":"': _texts(slate.ids, order), '","score":': _numbers(slate.scores[order])}
    opened = "}"
    if tasks:
        before = ',"tasks":{'
        for name, scores in slate.tasks.items():
            columns[f'{before}"{name}":'] = _numbers(scores[order])
            before = ","
        opened = "}}"
    if slate.factors is not None:
        columns[f'{opened[1:]},"factors":'] = [orjson.dumps(each).decode() for each in factors(slate)]
        opened = "}"
    # A row of text is what stands before each value, the value, and what closes the item.
    row = [text for before in columns for text in (before, "")] + [f"{opened},"]
    texts = row * len(order)
    for at, values in enumerate(columns.values()):
        texts[2 * at + 1 :: len(row)] = values
    return "".join(texts)[:-1].encode()


def _texts(ids: Sequence[str], order: NDArray[np.intp]) -> list[str]:
    """Ids in order, as JSON, but for the quotes around each."""
    ordered = [ids[at] for at in order.tolist()]
    written = orjson.dumps(ordered).decode()
    if "\\" in written:  # a quote within an id, perhaps: it is no mark to split at
        return [orjson.dumps(text).decode()[1:-1] for text in ordered]
    return written[2:-2].split('","') if ordered else []


def _numbers(values: NDArray[np.floating]) -> list[str]:
    """Numbers as JSON, each in the fewest digits that its own precision needs; what is not finite as null."""
    written = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()
    return written.split(",") if written else []
