"""Check a finished run without trusting it: `charlab verify RUN`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from charlab.configuration.messages import one_sentence
from charlab.errors import UserError
from charlab.quantities import count, fixed, joined
from charlab.runs import definitions
from charlab.runs.code import changed, code_hash
from charlab.runs.folder import CHECKPOINT
from charlab.runs.identity import fingerprint, sources
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.runs.text import NLL, own_config, own_corpus, own_nll, own_slices

if TYPE_CHECKING:
    from torch import Tensor

    from charlab.data.tokenizers import Vocabulary
    from charlab.models.contract import LanguageModel

ROUNDING = 1e-6  # relative rounding error of a mean over float32 values
# How far a score may be from the recorded one in nats, on the same type of device and on another: for a character,
# relative to 1 + its nll, and for the mean. GPUs may multiply in lower precision than CPUs.
CHARACTER_TOLERANCE, MEAN_TOLERANCE = (1e-3, 3e-2), (1e-5, 1e-3)
# Weights in half precision are scored by their run in half precision, and here in float32: the mean may differ by this.
HALF_PRECISION = ("bf16-true", "16-true")
HALF_TOLERANCE = 2e-2
BOUND_TOLERANCE = 5.0  # standard errors by which two estimates of a bound may differ, since they draw different masks
NORMALIZATION_TOLERANCE = 1e-4  # how far a sum of probabilities may be from 1
MOST_PROBES = 1 << 15  # vocabulary × length of the windows whose probabilities are summed
ROWS = 256  # how many of these windows are scored at a time


class Finding(NamedTuple):
    """The outcome of a check.

    Attributes:
        name: what was checked.
        passed: whether it holds; None if it could not be checked.
        text: what was found.
    """

    name: str
    passed: bool | None
    text: str


def verify_run(run: RunToVerify, *, scoring: bool = True) -> Iterator[Finding]:
    """Yield the finding of each check of a run.

    With `scoring`, the weights are scored again, and checked for leaks and for probabilities that do not add up.
    """
    checks: dict[str, Callable[[RunToVerify], tuple[bool | None, str]]] = {
        "settings": _settings,
        "code": _code,
        "text": _text,
        "figures": _figures,
        NLL: _characters,
    }
    of_weights = {"weights": _weights, "normalization": _normalization, "causality": _causality} if scoring else {}
    for name, check in (checks | of_weights).items():
        if name in of_weights and not (run.record.folder / CHECKPOINT).exists():
            yield Finding(name, None, f"there is no {CHECKPOINT}")
            continue
        try:
            yield Finding(name, *check(run))
        except UserError as error:
            yield Finding(name, False, str(error))
        except Exception as error:  # files that were tampered with, or a user's model, can raise any exception
            yield Finding(name, False, f"it cannot be checked: {type(error).__name__}: {one_sentence(error)}")


@dataclass
class RunToVerify:
    """A finished run, with what several checks need.

    Attributes:
        record: its record.
        path: where the file of its text is now; None if it has not moved.
        trust: whether to import code from the run's folder.
    """

    record: Record
    path: str | Path | None = None
    trust: bool = False
    device: Any = field(default="cpu", init=False)

    @cached_property
    def loaded(self) -> tuple[LanguageModel, Vocabulary]:
        """The trained model, and its vocabulary."""
        from charlab.runs.checkpoint import load
        from charlab.training.device import resolve_device

        self.device = resolve_device("auto")
        return load(self.record.folder, device=self.device, trust=self.trust)

    @cached_property
    def ids(self) -> Tensor:
        """The ids of the validation text."""
        import torch

        from charlab.data.encoding import encode_part

        corpus = own_corpus(self.record, self.path)
        ids = encode_part(corpus, own_slices(self.record, corpus)["validation"], self.loaded[1])
        return torch.from_numpy(ids).to(self.device)

    @property
    def context_length(self) -> int:
        """T of the windows in which the run was scored."""
        return int(self.record.config["data"]["context_length"])


# --- The checks -------------------------------------------------------------------------------------------------------


def _settings(run: RunToVerify) -> tuple[bool | None, str]:
    record = run.record
    if not record.sources:
        return None, "its record is from an earlier version, whose fingerprints had another form"
    config = own_config(record, run.path)
    config.trainer.precision = record.machine.get("precision", config.trainer.precision)  # as resolved then
    now = fingerprint(config)
    if now not in record.fingerprints:
        return False, f"the settings in its record have the fingerprint {now}, and the run {record.fingerprint}"
    return True, f"the settings in its record have the fingerprint {now}"


def _code(run: RunToVerify) -> tuple[bool | None, str]:
    record = run.record
    if not record.sources:
        return None, "its record does not say which code trained it"
    if record.code != code_hash(record.sources):
        return False, f"its record has the code {record.code}, but the sources in it have another hash"
    if run.trust and definitions.missing_from_main(record.config):
        definitions.import_into_main((record.folder / definitions.FILE_NAME).read_text(encoding="utf-8"), record.folder)
    now = sources(own_config(record, run.path))
    differing = changed(record.sources, now)
    if not differing:
        return True, f"today's code is the run's own, in all {count(len(now), 'source')}"
    if record.is_by(code_hash(now)):
        return True, f"today's code ({code_hash(now)}) has reproduced its first logged points"
    return False, f"changed since: {joined(differing, most=5)} (charlab.requalify tells whether it computes the same)"


def _text(run: RunToVerify) -> tuple[bool | None, str]:
    corpus = own_corpus(run.record, run.path)
    return True, f"{corpus.name}, {corpus.length:,} characters, has the recorded checksum {corpus.sha256[:12]}"


def _figures(run: RunToVerify) -> tuple[bool | None, str]:
    entries = run.record.metrics
    for entry in entries:
        nll = entry["nll"]
        derived = {} if nll is None else {"bpc": nll / math.log(2), "perplexity": math.exp(min(nll, 700.0))}
        for name, value in derived.items():
            if entry[name] is not None and not math.isclose(entry[name], value, rel_tol=ROUNDING):
                where = f"{entry['protocol']} on {entry['split']}"
                return False, f"{name} by {where} is {entry[name]:.6g}, but {nll:.6g} nats are {value:.6g}"
    return True, f"nats, bits and perplexity agree in {count(len(entries), 'figure')}"


def _characters(run: RunToVerify) -> tuple[bool | None, str]:
    if not (run.record.folder / NLL).exists():
        return None, "the run kept none"
    nll, entry = own_nll(run.record), run.record.metric("blocks")
    if len(nll) != entry["characters"]:
        return False, f"it holds {len(nll):,} characters, and the record {entry['characters']:,}"
    mean = nll.mean(dtype=np.float64)
    if not _equals_recorded(entry["nll"], mean, ROUNDING):
        return False, f"its mean is {mean:.6f}, and the record's figure {_shown(entry['nll'])}"
    scenes = np.add.reduceat(nll, np.arange(0, len(nll), SCENE_LENGTH), dtype=np.float64)
    if run.record.scenes and not np.allclose(scenes, run.record.scenes, rtol=ROUNDING, equal_nan=True):
        return False, f"its sums over {SCENE_LENGTH:,} characters are not those in the record"
    return True, f"{len(nll):,} characters, whose mean {mean:.6f} is the record's figure"


def _weights(run: RunToVerify) -> tuple[bool | None, str]:
    from charlab.evaluation.protocols import Blocks, evaluate
    from charlab.runs.evaluate import batch_size

    record, entry = run.record, run.record.metric("blocks")
    model, vocabulary = run.loaded
    sizes = {"context_length": entry["context_length"], "batch_size": batch_size(record.config, model)}
    score = evaluate(model, run.ids, Blocks(), vocabulary=vocabulary, **sizes)
    other = str(run.device) != record.machine.get("device")
    said = f"scored again: {_shown(score.nll)}, recorded: {_shown(entry['nll'])}"
    if other and model.likelihood == "bound":  # other devices draw other random numbers
        error = math.hypot(score.standard_error or 0.0, entry["standard_error"] or 0.0)
        return abs(score.nll - entry["nll"]) <= BOUND_TOLERANCE * error, f"{said}, with draws of another device"
    half = record.machine.get("precision") in HALF_PRECISION
    if not _equals_recorded(entry["nll"], score.nll, 0.0, HALF_TOLERANCE if half else MEAN_TOLERANCE[other]):
        return False, said
    if half:
        return True, f"{said} in {record.machine['precision']}"
    if not (record.folder / NLL).exists() or score.per_character is None:
        return True, said
    kept = own_nll(record)
    if kept.shape != score.per_character.shape:
        return False, f"{said}, but nll.npy is of another text"
    with np.errstate(invalid="ignore"):  # inf − inf: they are equal
        apart = np.nan_to_num(np.abs(score.per_character - kept) / (1 + np.abs(kept)))
    most, allowed = float(apart.max()), CHARACTER_TOLERANCE[other]
    return most <= allowed, f"{said}; no character in nll.npy is further off than {most:.1e} of its nll"


def _normalization(run: RunToVerify) -> tuple[bool | None, str]:
    """Add up the probabilities of all tokens that may come next, as `nll` scores them."""
    import torch

    from charlab.models.side_effects import untouched_randomness

    model, ids = run.loaded[0], run.ids
    length = min(run.context_length, len(ids) - 1, max(1, MOST_PROBES // model.vocab_size))
    sums = []
    for position in sorted({1, (length + 1) // 2, length}):
        probes = ids[None, : position + 1].long().repeat(model.vocab_size, 1)  # (V, position+1)
        probes[:, -1] = torch.arange(model.vocab_size, device=ids.device)
        with torch.no_grad(), untouched_randomness(ids.device):
            nll = [model.nll(part, scored_from=position)[:, -1] for part in probes.split(ROWS)]
        sums.append(torch.cat(nll).cpu().double().neg().exp().sum().item())  # mps has no float64
    furthest = max(sums, key=lambda total: abs(total - 1))
    said = f"at {count(len(sums), 'position')} the probabilities of {model.vocab_size} tokens add up to {furthest:.6f}"
    if model.likelihood == "bound":  # −log p is at most the bound, so the sum is at most 1
        return max(sums) <= 1 + NORMALIZATION_TOLERANCE, f"{said} or nearer to 1; for a bound, at most 1 is needed"
    return abs(furthest - 1) <= NORMALIZATION_TOLERANCE, f"{said} or nearer to 1"


def _causality(run: RunToVerify) -> tuple[bool | None, str]:
    from charlab.evaluation.causality import check_causality
    from charlab.models.contract import AutoregressiveModel

    model, vocabulary = run.loaded
    found = check_causality(model, ids=run.ids, vocabulary=vocabulary, context_length=run.context_length)
    if not isinstance(model, AutoregressiveModel):
        return None, found.reason
    if found.leaks:
        known = run.record.causality.get("leaks")
        return False, f"{found.reason}{'' if known else ' Its record does not say so.'}"
    return True, (
        f"{count(found.characters, 'character')} scored one by one cost {_shown(found.honest_nll)}, "
        f"by nll {_shown(found.claimed_nll)}"
    )


def _equals_recorded(recorded: float | None, value: float, relative: float, absolute: float = 0.0) -> bool:
    """Return whether a figure equals the recorded one, in which None means not finite."""
    if recorded is None or not math.isfinite(value):
        return recorded is None and not math.isfinite(value)
    return math.isclose(recorded, value, rel_tol=relative, abs_tol=absolute)


def _shown(value: float | None) -> str:
    return fixed(value, 6)
