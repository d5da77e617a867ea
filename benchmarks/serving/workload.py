"""Write a bundle to measure serving with, and the requests that wrk sends.

    python -m benchmarks.serving.workload OUT [--arch mmoe|ple] [--items 20000] [--state float16] [--int8]
    rankserve serve --models OUT/models
    wrk -t 1 -c 8 -d 10 -s OUT/wrk/rank-500.lua http://127.0.0.1:8000

20 user and 12 item fields of 20,000 categories each, 5,000 users, 20,000 items, embeddings of width 16. The
weights are drawn from a seed and never trained: speed does not depend on them. The bundle is exported, proven
and promoted as any other. A million items with state in float16 take 6 GB meanwhile, and a minute.

``mmoe`` has 8 experts of 256-128 and 6 tasks. ``ple`` has 4 tasks and two levels of 8 experts, 4 shared and 4
specific, one a task; of 256 units in the first level and of 128 in the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.serving import wrk
from benchmarks.serving.peers.scorer import FEATURES_FILE
from service.bundle import deployment
from service.bundle.columns import Column, Strings, Texts, strings
from service.bundle.deployment import DeployedRanker
from service.bundle.encoder import Encoder
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.bundle.vocabulary import Vocabulary
from training.config import TrainingConfig, parse_config
from training.examples import model_inputs
from training.export import export
from training.impressions import Impressions
from training.models import MultiTaskModel, build
from training.trained import Trained

Json = Mapping[str, Any]

SEED = 4
SAMPLED = 4000
"""made-up impressions that golden and parity requests are drawn from"""
SPREAD = 0.5
"""deviation of embeddings: those of an untrained model, near zero, would score all candidates alike"""
DAY = 20240511

MODELS: dict[str, Json] = {
    "mmoe": {"name": "mmoe", "experts": 8, "expert_hidden": [256, 128], "tower_hidden": [64]},
    "ple": {
        "name": "ple",
        "shared_experts": 4,
        "specific_experts": 1,
        "levels": [[256], [128]],
        "tower_hidden": [64],
    },
}
"""the ``[model]`` section of a config, by architecture"""

TASKS = {
    "mmoe": ("click", "like", "follow", "comment", "forward", "long_view"),
    "ple": ("click", "like", "follow", "long_view"),
}

RATES = {"click": 0.4, "like": 0.03, "follow": 0.005, "comment": 0.01, "forward": 0.01, "long_view": 0.25}
"""how often each event is predicted on average"""
WEIGHTS = {"click": 0.6, "like": 0.3, "follow": 0.2, "comment": 0.1, "forward": 0.1, "long_view": 0.8}
"""of the tasks in the formula, as exponents"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the world is."""

    users: int = 5_000
    items: int = 20_000
    user_fields: int = 20
    item_fields: int = 12
    categories: int = 20_000
    """of each field"""
    candidates: tuple[int, ...] = (100, 500)
    """of the requests, a script of wrk's each"""
    model: Json = field(default_factory=dict)
    """what replaces keys of the architecture's section"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write models/ and wrk/ to")
    parser.add_argument("--arch", choices=sorted(MODELS), default="mmoe", help="[%(default)s]")
    parser.add_argument("--items", type=int, default=Sizes().items, help="of the catalogue [%(default)s]")
    parser.add_argument(
        "--state", choices=("float32", "float16"), default="float32", help="items' state [%(default)s]"
    )
    parser.add_argument(
        "--int8", action="store_true", help="a rank graph in int8, too, with its own tolerance"
    )
    options = parser.parse_args()
    folder = write(options.out, options.arch, Sizes(items=options.items), options.state, int8=options.int8)
    print(f"wrote and promoted {folder}\nnext: rankserve serve --models {options.out / 'models'}")


def write(
    out: Path, architecture: str, sizes: Sizes | None = None, state: str = "float32", *, int8: bool = False
) -> Path:
    """Write ``out/models``, with the bundle promoted as `default`, and what measures it; the bundle's folder.

    ``out/wrk`` has the requests, and ``out/features.npz``, for the peers, the rows of users and items as the
    graphs read them.

    Args:
        out: folder.
        architecture: of `MODELS`.
        sizes: of the world.
        state: dtype of the items' state arrays.
        int8: whether there is a rank graph in int8, too; it serves where it is found to be faster.

    Raises:
        BundleError: the models folder has it already.
    """
    sizes = sizes or Sizes()
    random = np.random.default_rng(SEED)
    encoder = _encoder(sizes, random)
    config = _config(architecture, sizes, encoder, {"state": state, "int8": int8})
    trained = Trained(_untrained(config, encoder), encoder, config, SEED, {}, _sample(encoder, random))
    folder = export(trained, out / "models", f"workload-{architecture}")
    deployment.update(out / "models", lambda now: now.having("default", DeployedRanker(version=folder.name)))
    _write_encoded(out / FEATURES_FILE, encoder)
    for candidates in sizes.candidates:
        wrk.write(out / "wrk", candidates, users=sizes.users, items=sizes.items, seed=SEED)
    return folder


def _encoder(sizes: Sizes, random: np.random.Generator) -> Encoder:
    """Of tables whose fields are categories drawn alike, each field with a vocabulary of its own."""
    tables = {
        "user": _table("user", sizes.users, sizes.user_fields, sizes.categories, random),
        "item": _table("item", sizes.items, sizes.item_fields, sizes.categories, random),
    }
    sources = {
        f"{name}_{column}": f"{name}.{column}" for name, table in tables.items() for column in table.columns
    }
    known = _categories(sizes.categories)
    vocabularies = {name: Vocabulary(known) for name in sources}
    schema = FeatureSchema.model_validate(
        {
            "features": [
                {"kind": "categorical", "name": name, "source": source} for name, source in sources.items()
            ]
        }
    )
    fitted = Fitted(vocabularies={name: VocabularySpec(rows=len(known) + 1) for name in sources})
    return Encoder(schema.model_copy(update={"fitted": fitted}), vocabularies, tables)


def _table(name: str, rows: int, fields: int, categories: int, random: np.random.Generator) -> Table:
    """Rows ``u0``, ``u1`` … or ``i0``, ``i1`` … of a category each field."""
    known = _categories(categories)
    columns: dict[str, Column] = {
        f"field_{at:02}": Texts(known[random.integers(0, categories, rows)]) for at in range(fields)
    }
    return Table(name, [strings(f"{name[0]}{row}" for row in range(rows))], columns)


def _categories(count: int) -> Strings:
    return strings(f"c{at}" for at in range(count))


def _config(architecture: str, sizes: Sizes, encoder: Encoder, export: dict[str, Any]) -> TrainingConfig:
    """The config of a run that never was: of its dataset, only the names are true."""
    tasks = TASKS[architecture]
    raw = {
        "dataset": {
            "name": "tabular",
            "log": "untrained.csv",
            "user": "user_id",
            "item": "item_id",
            "time": "day",
            "labels": {task: {"column": task} for task in tasks},
        },
        "split": {"train_until": DAY, "validate_until": DAY + 1},
        "features": encoder.schema.model_dump(mode="json")["features"],
        "tasks": [{"name": task} for task in tasks],
        "model": {**MODELS[architecture], **sizes.model},
        "fusion": {"groups": [{"factors": [{"task": task, "weight": WEIGHTS[task]} for task in tasks]}]},
        "export": export,
    }
    return parse_config(raw, f"workload-{architecture}")


def _untrained(config: TrainingConfig, encoder: Encoder) -> MultiTaskModel:
    """A model of seeded weights, whose scores lie about the tasks' rates."""
    torch.manual_seed(SEED)
    model = build(config.model, model_inputs(encoder.schema), [task.spec() for task in config.tasks])
    torch.nn.init.normal_(model.user.table.weight, std=SPREAD)
    model.start_at(torch.tensor([[RATES[task.name]] for task in config.tasks]).logit())
    return model


def _sample(encoder: Encoder, random: np.random.Generator) -> Impressions:
    """Impressions of known users and items, with nothing logged."""
    drawn = {name: random.integers(0, len(table), SAMPLED) for name, table in encoder.tables.items()}
    days: NDArray[np.int32] = np.full(SAMPLED, DAY, np.int32)
    ids = {name: encoder.tables[name].keys[0][rows] for name, rows in drawn.items()}
    return Impressions(ids["user"], ids["item"], days, {}, {})


def _write_encoded(path: Path, encoder: Encoder) -> None:
    users, items = (encoder.tables[name].keys[0] for name in ("user", "item"))
    by_user, _, _ = encoder.log(users, np.resize(items, len(users)), {}, serving=True)
    np.savez(path, user_index=by_user.index, item_index=encoder.items.index[1:])


if __name__ == "__main__":
    main()
