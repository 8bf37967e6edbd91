"""Run and analyze studies: each answers one question by comparing arms over several seeds.

>>> from charlab import studies
>>> cells = studies.load("position")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, output_dir: str = "outputs", studies: str = "docs/studies") -> pd.DataFrame:
    """Return a table with one row per cell of a study: its settings, results and costs.

    Args:
        name: name of the study.
        output_dir: the folder of all outputs.
        studies: folder of committed studies, searched if the study is not in `output_dir`.

    Raises:
        UserError: if there is no such study.
    """
    from pathlib import Path

    from charlab.studies.plan import Plan, find_study
    from charlab.studies.state import read_results

    plan = Plan.load(find_study(name, [Path(output_dir, "studies"), Path(studies)]))
    return read_results(plan, Path(output_dir)).table()
