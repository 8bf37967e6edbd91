"""The models of conf/model/, and which of them tests choose."""

from pathlib import Path

from tests.helpers.tiny_runs import TINY

MODELS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
ALIKE = {"bigram_embedding", "linear_attention", "lstm", "min_lstm", "multi_head", "ngram_witten_bell", "rnn"}
ALIKE |= {"single_head", "transformer"}  # models that differ from others in their sizes or a part

# To train any of them in about a second: the settings that all share, and those that make a large one small.
SHARED = [override for override in TINY if not override.startswith("model")]
SMALLER = {
    "transformer": ["model.embed_dim=48", "model.num_layers=2"],
    "multi_head": ["model.embed_dim=48"],
    "context_mixing": ["model.reader.hidden_dim=32"],
}
