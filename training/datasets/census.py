"""Census-income (KDD): people asked by the US Census Bureau in 1994 and 1995, with their jobs and incomes.

Lane and Kohavi, UCI Machine Learning Repository, 2000; the two tasks are those of Ma et al., "Modeling Task
Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. Reads the original
``census-income.data`` and ``census-income.test``, gzipped or not.

As a log, a row is a person (the user) shown in her job (the item). No person comes twice, so her columns are
the context of the row and the table of users is empty: a GAUC does not exist. A job is the pair of its
detailed codes, ``<industry>-<occupation>``, with the codes and their major groups as its fields. The files
have no days: `TRAIN_DAY`, `VALIDATE_DAY` and `TEST_DAY` stand for their parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from service.bundle.columns import Column, Numbers, Strings, Texts, strings
from service.bundle.errors import FeatureError
from service.bundle.table import Table
from training.datasets.lines import check_rows, reading
from training.impressions import Impressions, Log

TRAIN_DAY: Final = 20000101
VALIDATE_DAY: Final = 20000102
TEST_DAY: Final = 20000103

COLUMNS = (
    "age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour", "hs_college",
    "marital_stat", "major_ind_code", "major_occ_code", "race", "hisp_origin", "sex", "union_member",
    "unemp_reason", "full_or_part_emp", "capital_gains", "capital_losses", "stock_dividends",
    "tax_filer_stat", "region_prev_res", "state_prev_res", "det_hh_fam_stat", "det_hh_summ",
    "instance_weight", "mig_chg_msa", "mig_chg_reg", "mig_move_reg", "mig_same", "mig_prev_sunbelt",
    "num_emp", "fam_under_18", "country_father", "country_mother", "country_self", "citizenship",
    "own_or_self", "vet_question", "vet_benefits", "weeks_worked", "year", "income",
)  # fmt: skip
"""as the files have them, which bring no header"""

NUMBERS = (
    "age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked",
)  # fmt: skip
JOB = ("det_ind_code", "det_occ_code")
JOB_FIELDS = (*JOB, "major_ind_code", "major_occ_code")
DROPPED = ("income", "marital_stat", "instance_weight")
"""the two labels; and how many people a row stands for, which is of the survey and not of the person"""

OVER, UNDER = "50000+", "- 50000"
NEVER_MARRIED = "Never married"


class CensusConfig(BaseModel):
    """Where the files lie is the command line's ``--data``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["census"]


def read(folder: Path) -> Log:
    """The log of a folder: the training file, then the two halves of the test file.

    The test file is halved as others do: validation is pandas' ``sample(frac=.5, random_state=1)`` of it.
    Labels: `income` (over 50,000 dollars) and `never_married`. Context: a person's columns but `DROPPED`.

    Raises:
        FileNotFoundError: a file is missing.
        FeatureError: a file is not what it should be.
    """
    train, tested = (_frame(folder, name) for name in ("census-income.data", "census-income.test"))
    validate = tested.sample(frac=0.5, random_state=1)
    parts = {TRAIN_DAY: train, VALIDATE_DAY: validate, TEST_DAY: tested.drop(validate.index)}
    people = pd.concat(parts.values(), ignore_index=True)
    job = people[JOB[0]].str.cat(people[JOB[1]], sep="-")
    impressions = Impressions(
        user_id=strings(map(str, range(len(people)))),
        item_id=job.to_numpy(object),
        day=np.repeat(np.array(list(parts), np.int32), [len(part) for part in parts.values()]),
        context={name: _column(people[name]) for name in COLUMNS if name not in (*JOB_FIELDS, *DROPPED)},
        labels={
            "income": (people["income"] == OVER).to_numpy(np.float32),
            "never_married": (people["marital_stat"] == NEVER_MARRIED).to_numpy(np.float32),
        },
    )
    return Log(impressions, {"user": Table("user", [strings([])], {}), "item": _jobs(people, job)})


def _jobs(people: pd.DataFrame, job: pd.Series) -> Table:
    jobs = people.assign(job=job).drop_duplicates("job")
    return Table("item", [jobs["job"].to_numpy(object)], {name: _column(jobs[name]) for name in JOB_FIELDS})


def _column(values: pd.Series) -> Column:
    """Numbers where the census counts, texts where it has codes."""
    if values.name in NUMBERS:
        return Numbers(values.to_numpy(np.float64))
    texts: Strings = values.astype(object).where(values.notna(), None).to_numpy(object)
    return Texts(texts)


def _frame(folder: Path, name: str) -> pd.DataFrame:
    """One of the files; ``?`` is missing, and NA an origin like any other."""
    there = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not there:
        raise FileNotFoundError(f"{folder}: no {name} or {name}.gz; is this a folder of census-income?")
    path = there[0]
    with reading(path, "is no census file"):
        check_rows(path, header=False)
        frame = pd.read_csv(
            path, header=None, dtype=str, skipinitialspace=True, keep_default_na=False, na_values=["?"]
        )
        if len(frame.columns) != len(COLUMNS):
            raise ValueError(f"it has {len(frame.columns)} columns in place of {len(COLUMNS)}")
        frame.columns = pd.Index(COLUMNS)
        frame[list(NUMBERS)] = frame[list(NUMBERS)].astype(np.float64)
    frame["income"] = frame["income"].str.removesuffix(".")
    if (odd := ~frame["income"].isin([OVER, UNDER])).any():
        found = frame["income"][odd].iloc[0]
        raise FeatureError(path.name, f"is no census file: its last column holds {found!r} as an income")
    return frame
