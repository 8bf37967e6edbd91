"""Show how much each character of a passage surprises a run's model, on a page or in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console

from charlab.command import command
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.quantities import fixed
from charlab.runs.identity import changed_since
from charlab.runs.listing import short_name
from charlab.runs.record import Record
from charlab.runs.store import Store, changes
from charlab.runs.text import own_corpus, own_nll, own_slices

LONGEST = 15_000  # characters on a page of at most 2 MB
LEVELS = 12  # color levels, one per half nat
SIGNS = {"\n": "↵", " ": "␣", "\t": "⇥"}
STYLE = """\
.charlab-nll { max-width: 60rem; padding: 1rem; background: #fff; color: #1d1d1f; font: 15px/1.5 system-ui, sans-serif }
.charlab-nll h1 { margin: 0; font-size: 1.4rem } .charlab-nll p { margin: .4rem 0; color: #62626a }
.charlab-nll pre { margin: 1rem 0; white-space: pre-wrap; overflow-wrap: anywhere; color: #1d1d1f;
  font: 1rem/1.75 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.charlab-nll i { position: relative; font-style: normal; padding: .12em 0 }
.charlab-nll i.n::before { content: "↵"; color: #8a8a94 }
.charlab-nll i:hover { outline: 2px solid #1d1d1f }
.charlab-nll i:hover::after { content: attr(data-e); position: absolute; z-index: 1; left: 0; top: 1.8em;
  width: max-content; padding: .3em .6em; border-radius: .3em; background: #1d1d1f; color: #fff; font-size: .85rem;
  white-space: pre }
.charlab-nll .key i { padding: .12em .5em }
"""


@dataclass(frozen=True)
class Surprisal:
    """A passage of a run's validation text with the nll of each character; a notebook shows it in color.

    Attributes:
        title: the run, and its figure.
        note: which passage it is, and what is missing.
        text: the passage.
        nll: −log p of each of its characters, in nats.
        expected: for each character, in words, the three tokens that the model thought most probable in its place;
            empty if the model is not available.
    """

    title: str
    note: str
    text: str
    nll: Float[np.ndarray, " N"]
    expected: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Return the passage for a notebook."""
        colors = "".join(
            f".charlab-nll .c{level} {{ background: rgba(213, 94, 0, {level / (LEVELS - 1) * 0.85:.2f}) }}\n"
            for level in range(LEVELS)
        )
        key = "".join(f'<i class="c{level}">{level / 2:g}</i>' for level in range(0, LEVELS, 2))
        marked = "".join(map(self._mark, range(len(self.text))))
        return (
            f'<style>{STYLE}{colors}</style>\n<div class="charlab-nll"><h1>{escape(self.title)}</h1>\n'
            f'<p>{escape(self.note)}</p>\n<p class="key">nats: {key} and more</p>\n<pre>{marked}</pre></div>'
        )

    def page(self) -> str:
        """Return the passage as a self-contained web page."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{escape(self.title)}</title></head>\n'
            f"<body>{self._repr_html_()}</body></html>\n"
        )

    def _mark(self, index: int) -> str:
        character, nll = self.text[index], float(self.nll[index])
        level = LEVELS - 1 if nll != nll else int(min(LEVELS - 1, 2 * max(nll, 0.0)))  # it may be infinite
        line = ' n"' if character == "\n" else '"'
        said = f"{SIGNS.get(character, character)}  {fixed(nll, 2)} nats"
        said += f"\n{self.expected[index]}" if self.expected else ""
        return f'<i class="c{level}{line} data-e="{escape(said)}">{escape(character)}</i>'


def surprisal(record: Record, start: int = 0, length: int = 3000, *, trust: bool = False) -> Surprisal:
    """Return a passage of a run's validation text with the nll of each character, and what the model expected.

    Args:
        record: the record of a finished run.
        start: number of characters to skip, not counting those of the first token, which no model predicts.
        length: number of characters in the passage.
        trust: whether to import code from the run's folder.

    Raises:
        UserError: if the run did not keep the nll of each character, only the sum of its nll has a meaning, or there is
            no such passage.
    """
    nll, entry = own_nll(record), record.metric("blocks")
    if not 0 <= start < len(nll):
        raise UserError(f"start={start} is outside the text: give a number from 0 to {len(nll) - 1}.")
    if not 0 < length <= LONGEST:
        raise UserError(f"length={length} does not fit a page: give a number from 1 to {LONGEST}.")
    stop = min(start + length, len(nll))
    corpus = own_corpus(record)
    part = own_slices(record, corpus)["validation"]
    text = "".join(corpus.between(part.start, part.stop))
    given = len(text) - len(nll)  # characters of the first token
    expected, why = _expected(record, text, start + given, stop + given, trust)
    note = (
        f"Characters {start + 1:,} to {stop:,} of {len(nll):,} in the validation text of "
        f"{corpus.name}, {fixed(float(nll[start:stop].mean(dtype=np.float64)))} nats each on average. {why}"
    )
    if record.causality.get("leaks"):
        note = f"The model leaks, so its figures mean nothing: {record.causality['reason']} {note}"
    bound = "≤ " if entry["likelihood"] == "bound" else ""
    title = f"{record.name} {short_name(record.folder)}: {bound}{fixed(entry['nll'])} nats per character"
    return Surprisal(title, note.strip(), text[start + given : stop + given], nll[start:stop], expected)


def _expected(record: Record, text: str, start: int, stop: int, trust: bool) -> tuple[tuple[str, ...], str]:
    """Return what the model expected at each character, and a sentence on how to see it or why it is unknown."""
    import torch

    from charlab.models.contract import AutoregressiveModel
    from charlab.runs.checkpoint import load
    from charlab.runs.failure import naming_part

    try:
        model, vocabulary = load(record.folder, trust=trust)
        if record.sources and (names := changed_since(record, {"model": record.config["model"]})):
            raise UserError(f"its code has {changes(names)}.")
    except UserError as error:
        return (), f"What the model expected is not known: {error}"
    if model.likelihood == "bound":
        raise UserError(f"The figures of {record.folder} are an upper bound, and only their sum has a meaning.")
    if not isinstance(model, AutoregressiveModel):
        return (), "What the model expected is not known: it is not autoregressive."
    ids = torch.from_numpy(vocabulary.encode(text)).long()
    lengths = np.ones(len(ids), dtype=int) if vocabulary.lengths is None else vocabulary.lengths[ids.numpy()]
    tokens = np.repeat(np.arange(len(ids)), lengths)[start:stop]  # the token in which each character begins
    names = [_name(piece) for piece in vocabulary.pieces]
    size = record.metric("blocks")["context_length"]
    said: dict[int, str] = {}
    with naming_part(model), torch.no_grad():
        for first in range((max(1, int(tokens[0])) - 1) // size * size, int(tokens[-1]), size):
            window = ids[first : first + size + 1]
            logits = model(window[None, :-1])[0]  # (T, V)
            best = logits.double().log_softmax(-1).exp().topk(min(3, logits.shape[-1]))
            for row, (shares, found) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                said[first + row + 1] = "expected " + "  ".join(
                    f"{names[token]} {share:.0%}" for token, share in zip(found, shares, strict=True)
                )
    return tuple(said.get(int(token), "") for token in tokens), "Point at a character for what the model expected."


def _name(piece: bytes) -> str:
    return "".join(SIGNS.get(character, character) for character in piece.decode("utf-8", "replace"))


def show(runs: Sequence[str], output_dir: Path, options: Mapping[str, str], console: Console) -> None:
    """Write the page of a run, and print its path."""
    if len(runs) != 1:
        raise UserError(f"show takes one run, not {len(runs)}: {command('runs', 'show', 'RUN')}.")
    for key in ("start", "length"):
        if not options[key].isdecimal():
            raise UserError(f"{key} must be a number of characters, not {options[key]!r}.")
    record = Record.load(Store(output_dir).named(runs[0]))
    trust = options["trust"].lower() == "true"
    page = surprisal(record, int(options["start"]), int(options["length"]), trust=trust).page().encode()
    file = Path(options["page"] or output_dir / f"show-{short_name(record.folder)}.html")
    write_atomically(file, lambda stream: stream.write(page))
    console.print(f"page       {file}", highlight=False, markup=False, soft_wrap=True)
