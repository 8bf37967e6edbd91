"""Laws over sizes: the fit against a general optimizer, the verdicts against simulated studies, and the report."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from charlab.configuration.compose import Composer
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError
from charlab.studies import planner as planner_module
from charlab.studies.definition import define
from charlab.studies.plan import Cell
from charlab.studies.report.contents import gather
from charlab.studies.report.figures import Drawings
from charlab.studies.report.style import drawing
from charlab.studies.report.writer import write_report
from charlab.studies.scaling import extrapolate, fit
from charlab.studies.state import read_results
from tests.helpers.made_up_study import MadeUpArm, make_study
from tests.references.scaling import fit as fit_slowly

SIZES = np.array([2e4, 5e4, 1.2e5, 3e5, 8e5])


def losses(exponent: float = 0.3, *, noise: float, seeds: int = 8, seed: int = 0, off: float = 0.0) -> np.ndarray:
    """Losses (S, K) of a law; seeds move all sizes together, and the largest is off by so much."""
    random = np.random.default_rng(seed)
    found = 1.2 + 0.9 * (SIZES / 1e5) ** -exponent
    found = found + 0.01 * random.standard_normal((seeds, 1)) + noise * random.standard_normal((seeds, len(SIZES)))
    found[:, -1] += off
    return found


@pytest.mark.parametrize("exponent", [0.1, 0.3, 1.0])
def test_a_law_without_noise_is_found(exponent: float) -> None:
    law = fit(SIZES, 1.2 + 0.9 * (SIZES / 1e5) ** -exponent)
    assert (law.offset, law.exponent) == pytest.approx((1.2, exponent), rel=1e-4)
    assert law(3e6) == pytest.approx(1.2 + 0.9 * 30**-exponent, rel=1e-5)
    assert not law.at_limit


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_the_fit_equals_a_general_optimizers(seed: int) -> None:
    means = losses(noise=0.01, seeds=2, seed=seed).mean(0)
    offset, scale, exponent = fit_slowly(SIZES / 1e5, means)
    law = fit(SIZES, means)
    assert law(SIZES) == pytest.approx(offset + scale * (SIZES / 1e5) ** -exponent, abs=1e-5)


def test_losses_that_do_not_fall_determine_no_exponent() -> None:
    assert fit(SIZES, np.array([1.50, 1.51, 1.52, 1.53, 1.54])).at_limit
    found = extrapolate({"gpt": (SIZES, 1.5 + losses(noise=0.001)[:, ::-1])}, 0.05)["gpt"]
    assert found.verdict != "held"


@pytest.mark.parametrize(
    ("noise", "off", "margin", "verdict"),
    [
        (0.002, 0.0, 0.05, "held"),
        (0.002, 0.1, 0.05, "not held"),
        (0.002, -0.1, 0.05, "not held"),
        (0.02, 0.0, 0.01, "not settled"),  # the interval is wider than the margin
        (0.02, 0.3, 0.01, "not held"),  # however wide it is
    ],
)
def test_verdicts(noise: float, off: float, margin: float, verdict: str) -> None:
    found = extrapolate({"gpt": (SIZES, losses(noise=noise, off=off))}, margin)["gpt"]
    assert found.verdict == verdict
    assert (found.interval[0] <= found.seen.mean() <= found.interval[1]) == (verdict != "not held")
    assert found.size == SIZES[-1]
    assert len(found.sizes) == 4


def test_the_held_out_size_takes_no_part_in_the_fit() -> None:
    near, far = (extrapolate({"gpt": (SIZES, losses(noise=0.002, off=off))}, 0.05)["gpt"] for off in (0.0, 0.5))
    assert near.law == far.law
    assert far.predicted == pytest.approx(near.predicted)


def test_families_share_the_error_rate() -> None:
    noisy = {f"family {i}": (SIZES, losses(noise=0.005, seed=i)) for i in range(3)}
    found = extrapolate(noisy, 0.05)
    assert [law.confidence for law in found.values()] == pytest.approx([1 - 0.05 / 3] * 3)
    wrong = extrapolate(noisy | {"wrong": (SIZES, losses(noise=0.002, off=0.5))}, 0.05)
    assert wrong["wrong"].confidence == pytest.approx(1 - 0.05 / 4)
    assert wrong["wrong"].verdict == "not held"


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "seeds"), [(0.003, 6), pytest.param(0.01, 8, marks=pytest.mark.thorough)])
def test_a_true_law_is_rarely_said_not_to_hold(noise: float, seeds: int) -> None:
    studies = 200
    found = [
        extrapolate({"gpt": (SIZES, losses(noise=noise, seeds=seeds, seed=100 + i))}, 0.05)["gpt"].verdict
        for i in range(studies)
    ]
    assert found.count("not held") / studies <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)


def arms(off: float = 0.0, **fates: object) -> list[MadeUpArm]:
    names = ("w16", "w32", "w64", "w128", "w256")
    return [
        MadeUpArm(
            f"{family}+{name}",
            1.2 + above * (size / 1e5) ** -0.3 + off * (name == "w256"),
            parameters=int(size),
            factors={"family": family, "size": name},
            fates=fates.get(name, {}),  # type: ignore[arg-type]
        )
        for family, above in (("gpt", 0.9), ("lstm", 1.1))
        for name, size in zip(names, SIZES, strict=True)
    ]


def study(tmp_path, made, **options):
    options = {"kind": "scaling", "held_out": "w256", "margin": 0.08, "noise": 0.003} | options
    plan = make_study(tmp_path, made, **options)
    return read_results(plan, tmp_path / "outputs", tmp_path / "records")


@pytest.mark.slow
def test_the_report_says_whether_the_law_held(tmp_path):
    results = study(tmp_path, arms())
    contents = gather(results)
    first, second, meaning = contents.scaling.sentences
    assert first.startswith("gpt: held. Fitted to 4 sizes of 20,000 to 300,000 parameters, the loss is 1.")
    assert "At 800,000 parameters, which took no part in the fit, 1." in first
    assert second.startswith("lstm: held.")
    assert "narrower than the margin" in meaning
    assert contents.judgments == ()
    assert contents.factors == ()
    assert not contents.notices
    assert "tested on it" in " ".join(contents.method)
    report = write_report(results, tmp_path / "report", ["markdown", "latex"])
    page = report.files["markdown"].read_text()
    assert "## Law over sizes" in page
    assert (tmp_path / "report" / "figures" / "scaling.png").exists()
    assert "gpt,held" in (tmp_path / "report" / "tables" / "laws.csv").read_text()
    assert "figures/scaling.pdf" in report.files["latex"].read_text()


def test_a_law_without_an_offset_says_what_its_interval_means(tmp_path):
    made = [dataclasses.replace(arm, nll=arm.nll - 1.45) for arm in arms()]  # below any law of which the offset is 0
    contents = gather(study(tmp_path, made, noise=0.0005))
    found = contents.scaling.laws["gpt"]
    assert (found.law.offset, found.offsets) == (0.0, (0.0, 0.0))
    assert "none for the offset, as 0 fits best: these sizes show no lower limit" in contents.scaling.sentences[0]
    assert "0 to 0" not in contents.scaling.sentences[0]


def test_an_interval_of_the_offset_ends_at_zero() -> None:
    found = extrapolate({"gpt": (SIZES, losses(noise=0.004) - 1.2)}, 0.05)["gpt"]
    assert found.offsets[0] == 0.0 < found.offsets[1]


@pytest.mark.slow
def test_what_has_no_law_is_said(tmp_path):
    diverged = {305: ("diverged", "The loss became nan.")}
    assert gather(study(tmp_path / "a", arms(w64=diverged))).scaling.sentences[0] == (
        "gpt: no law; a cell of gpt+w64 has no finite loss."
    )
    missing = dict.fromkeys(range(305, 311), ("missing", ""))
    sentences = gather(study(tmp_path / "b", arms(w64=missing))).scaling.sentences
    assert sentences[0] == "gpt: no law; 2 seeds of 8 ended at every size, and 3 are needed."
    provisional = gather(study(tmp_path / "c", arms(w64={305: ("missing", "")}))).scaling.sentences
    assert provisional[0].startswith("gpt: held, provisional with 7 of 8 seeds.")
    inside = gather(study(tmp_path / "d", arms(), held_out="w64")).scaling.sentences
    assert inside[0].startswith("gpt: no law; the held-out size of 120,000 is inside the fitted range")


def test_a_family_without_a_law_helps_no_other_one(tmp_path):
    diverged = {305: ("diverged", "The loss became nan.")}
    made = [dataclasses.replace(arm, fates=diverged) if arm.name == "gpt+w64" else arm for arm in arms()]
    (law,) = gather(study(tmp_path, made)).scaling.laws.values()
    assert (law.family, law.confidence) == ("lstm", pytest.approx(1 - 0.05 / 2))


@pytest.mark.slow
def test_the_figure_names_what_it_draws_and_marks_bounds(tmp_path):
    diverged = {305: ("diverged", "The loss became nan.")}
    without = [dataclasses.replace(arm, fates=diverged) if arm.name == "gpt+w64" else arm for arm in arms()]
    made = [dataclasses.replace(arm, likelihood="bound") if "lstm" in arm.name else arm for arm in without]
    results = study(tmp_path, made)
    contents = gather(results)
    assert contents.captions["scaling"].startswith("Loss of lstm against size.")
    assert contents.scaling.sentences[0].endswith("The losses are upper bounds (≤), and the law is that of the bounds.")
    with drawing():
        figure = Drawings(results, contents).for_page()["scaling"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["≤ lstm"]


def defined(body: str):
    base = OmegaConf.load(conf_folder() / "study" / "_base.yaml")
    own = OmegaConf.create(f"baseline: a\narms: {{a: [model=gpt], b: []}}\n{body}")
    return define(OmegaConf.merge(base, own), "mine")


FIVE = "sizes: {s1: [x=1], s2: [x=2], s3: [x=3], s4: [x=4], s5: [x=5]}"


def test_the_arms_of_a_scaling_study_are_those_of_every_size():
    definition = defined(f"kind: scaling\nheld_out: s5\n{FIVE}")
    assert [arm.name for arm in definition.arms][:2] == ["a+s1", "a+s2"]
    assert len(definition.arms) == 10
    assert definition.arms[1].overrides == ("model=gpt", "x=2")
    assert definition.arms[1].factors == {"family": "a", "size": "s2"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"kind: scaling\n{FIVE}", "study.held_out (in study/mine.yaml) must be one of study.sizes"),
        (f"kind: scaling\nheld_out: s6\n{FIVE}", "must be one of study.sizes; known are s1, s2"),
        ("kind: scaling\nheld_out: s2\nsizes: {s1: [x=1], s2: [x=2]}", "must be 4 to fit and a larger one"),
        (f"kind: scaling\nheld_out: s5\nlooks: [6, 9]\n{FIVE}", "study.looks (in study/mine.yaml) has no place"),
        (f"kind: scaling\nheld_out: s5\n{FIVE}\nmetric: steps_to\ntarget: 1.6\nmargin: 1.1", "study.metric"),
        (FIVE, "need study.kind=scaling"),
        (f"kind: scaling\nheld_out: s5\n{FIVE}".replace("[x=1]", "16"), "arm a+s1 (in study/mine.yaml) must be a list"),
        ("kind: law", "study.kind (in study/mine.yaml) must be one of"),
    ],
)
def test_scaling_studies_that_cannot_be(body, message):
    with pytest.raises(UserError) as error:
        defined(body)
    assert message in str(error.value)


def test_an_ordinary_sweep_is_no_scaling_study():
    base = OmegaConf.load(conf_folder() / "study" / "_base.yaml")
    with pytest.raises(UserError, match=r"study\.kind=scaling needs a study with arms"):
        define(OmegaConf.merge(base, OmegaConf.create(f"kind: scaling\nheld_out: s5\n{FIVE}")), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held_out", "message"),
    [("w256", ""), ("w64", "study.held_out=w64 has .* parameters with transformer, but w256 has")],
)
def test_a_size_inside_of_the_fitted_range_is_not_held_out(held_out, message, monkeypatch):
    monkeypatch.setattr(
        planner_module, "find_cells", lambda arm, _, seeds, *__: [Cell(arm, seed, f"x/{arm}", ()) for seed in seeds]
    )
    monkeypatch.setattr(planner_module, "output_folder", lambda config, sweep: None)
    composer = Composer()
    node = composer.master(["study=scaling", f"study.held_out={held_out}"]).study
    planner = planner_module.Planner(define(node, "scaling"), composer, [])
    if not message:
        assert len(planner.plan("").cells) == 60
        return
    with pytest.raises(UserError, match=message):
        planner.plan("")
