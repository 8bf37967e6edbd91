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

    from charlab.studies.plan import FILE_NAME, Plan
    from charlab.studies.state import read_results

    own, kept = Path(output_dir, "studies", name), Path(studies, name)
    plan = Plan.load(kept if (kept / FILE_NAME).exists() and not (own / FILE_NAME).exists() else own)
    return read_results(plan, Path(output_dir)).table()
