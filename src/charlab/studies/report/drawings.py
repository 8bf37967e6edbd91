"""Which figures a report has, for the page and for the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from charlab.studies.report.contents import Contents
from charlab.studies.report.curves import Curve, curve_over_seeds
from charlab.studies.report.drawing import Look, looks
from charlab.studies.report.figures import CLOCKS, draw_costs, draw_curves, draw_differences
from charlab.studies.report.wording import labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charlab.studies.results import StudyResults

PAGE_WIDTH = 4.0  # inches: about what a telephone shows without making letters smaller
PAPER_WIDTH = 5.5
HEIGHT_PER_ARM = 0.11


class Drawings:
    """The figures of a report, to be used within `drawing()`.

    Args:
        results: whose curves are drawn.
        contents: what is said of them.
    """

    def __init__(self, results: StudyResults, contents: Contents) -> None:
        self.contents = contents
        names = list(contents.arms)
        self.looks: Mapping[str, Look] = looks(names, contents.plan.baseline, labels(names))
        self.curves: dict[str, dict[str, Curve]] = {clock: {} for clock in CLOCKS}
        for name in names:
            points = results.curves(name)
            finished = [result.cell.seed for result in results.of(name) if result.status == "finished"]
            points = points[points["seed"].isin(finished)]  # one that diverged ends in between
            for clock in CLOCKS:
                curve = curve_over_seeds(points, clock)
                if curve is not None:
                    self.curves[clock][name] = curve

    def for_page(self) -> dict[str, Figure]:
        """Returns the figures for a screen, one panel each, by name."""
        found = self._differences(PAGE_WIDTH)
        if self._has_curves:
            found |= {f"curves-{clock}": self._curves([clock], PAGE_WIDTH, 2.5) for clock in CLOCKS}
        return found | {f"cost-{cost}": self._costs([cost], PAGE_WIDTH, 2.5) for cost in self.contents.compared_costs}

    def for_paper(self) -> dict[str, Figure]:
        """Returns the figures for a paper, with panels side by side, by name."""
        found = self._differences(PAPER_WIDTH)
        if self._has_curves:
            found["curves"] = self._curves(list(CLOCKS), PAPER_WIDTH, 1.75)
        if costs := self.contents.compared_costs:
            found["costs"] = self._costs(costs, PAPER_WIDTH, 1.75)
        return found

    @property
    def _has_curves(self) -> bool:
        return bool(self.curves["step"])

    def _differences(self, width: float) -> dict[str, Figure]:
        judgments = self.contents.judgments
        if not any(judgment.comparison.differences for judgment in judgments):
            return {}
        return {"differences": draw_differences(judgments, self.looks, width=width)}

    def _curves(self, clocks: list[str], width: float, height: float) -> Figure:
        return draw_curves(
            self.curves,
            self.contents.arms,
            self.looks,
            clocks=clocks,
            width=width,
            height=self._height(height),
            floor=self.contents.floor,
        )

    def _costs(self, costs: list[str], width: float, height: float) -> Figure:
        return draw_costs(
            self.contents.arms,
            self.looks,
            costs=costs,
            width=width,
            height=self._height(height),
            floor=self.contents.floor,
        )

    def _height(self, least: float) -> float:
        """Returns a height at which the labels of all arms have room."""
        return max(least, HEIGHT_PER_ARM * len(self.contents.arms) + 0.5)
