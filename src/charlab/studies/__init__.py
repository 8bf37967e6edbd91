"""Studies: one question each, answered by arms and seeds.

>>> from charlab import studies
>>> cells = studies.load("position")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load(name: str, output_dir: str = "outputs", studies: str = "docs/studies") -> pd.DataFrame:
    """Returns a row for each cell of a study: what it is, what came out, what it cost.

    Args:
        name: the study's.
        output_dir: the folder of all outputs.
        studies: where studies are kept that were run elsewhere.

    Raises:
        UserError: if there is no such study.
    """
    from pathlib import Path

    from charlab.studies.plan import FILE_NAME, Plan
    from charlab.studies.state import read_results

    own, kept = Path(output_dir, "studies", name), Path(studies, name)
    plan = Plan.load(kept if (kept / FILE_NAME).exists() and not (own / FILE_NAME).exists() else own)
    return read_results(plan, Path(output_dir)).table()
