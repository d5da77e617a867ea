"""Logs to train on, by the name of their dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.bundle.errors import FeatureError
from training.datasets import census, kuairand, synthetic, tabular
from training.datasets.census import CensusConfig
from training.datasets.kuairand import KuaiRandConfig
from training.datasets.tabular_config import TabularConfig
from training.datasets.world import SyntheticConfig
from training.impressions import Log

DatasetConfig = Annotated[
    SyntheticConfig | KuaiRandConfig | CensusConfig | TabularConfig, Field(discriminator="name")
]
"""The ``[dataset]`` section of a training config: which dataset, and how to read or make it."""


def load_log(config: DatasetConfig, data: Path | None = None) -> Log:
    """The log that a config describes, in order of time.

    Args:
        config: which dataset, and how to read or make it.
        data: folder of the dataset's files; a synthetic world has none.

    Raises:
        FeatureError: a folder is given to a dataset that reads no files, or none to one that does; or a file
            is not what it should be.
        OSError: a file is missing or cannot be read.
    """
    if isinstance(config, SyntheticConfig):
        if data is not None:
            raise FeatureError("dataset", f"{config.name} makes its log and reads no files: leave out --data")
        return synthetic.generate(config)
    if data is None:
        raise FeatureError("dataset", f"{config.name} reads files: give their folder with --data")
    match config:
        case KuaiRandConfig():
            return kuairand.read(data)
        case CensusConfig():
            return census.read(data)
        case TabularConfig():
            return tabular.read(config, data)
