from functools import partial

import pytest
import torch
from torch import nn

from charlab.data.tokenizers import Characters
from charlab.errors import UserError
from charlab.generation import generate, generate_whole, next_characters
from charlab.models.backbone import Backbone
from charlab.models.bigram import Bigram
from charlab.models.contract import LanguageModel
from charlab.models.decoding import stream
from charlab.models.mixers.attention import Attention
from charlab.models.positions import Learned
from charlab.models.rnn import LSTM
from tests.helpers.devices import WithoutFloat64

LETTERS = Characters.of("\n abcdé")


class Successor(LanguageModel):
    """Not autoregressive: writes each text at once, every character the one after the one before."""

    likelihood = "bound"
    context_length = None
    vocab_size = len(LETTERS)

    def nll(self, window, *, scored_from=1, generator=None):
        raise NotImplementedError

    def sample(self, prompt, length, *, temperature=1.0, top_k=None, top_p=None, generator=None):
        steps = torch.arange(1, length + 1)
        return torch.cat([prompt, (prompt[:, -1:] + steps) % self.vocab_size], dim=1)


def bigram():
    torch.manual_seed(0)
    return Bigram(len(LETTERS))


def test_pieces_are_one_character_of_each_sample():
    pieces = list(generate(bigram(), LETTERS, "ab", 30, num_samples=3))
    assert [len(piece) for piece in pieces] == [3] * 30
    assert all(len(character) == 1 for piece in pieces for character in piece)
    assert len(set(zip(*pieces, strict=True))) == 3  # three samples, not one three times


def test_whole_texts_are_the_prompt_and_its_continuations():
    options = {"num_samples": 2, "temperature": 0.7, "top_k": 5, "seed": 3}
    pieces = list(generate(bigram(), LETTERS, "é\na", 12, **options))
    expected = ["é\na" + "".join(sample) for sample in zip(*pieces, strict=True)]
    assert generate_whole(bigram(), LETTERS, "é\na", 12, **options) == expected
    assert generate_whole(bigram(), LETTERS, "ab", 0, num_samples=2) == ["ab", "ab"]


def test_a_text_is_what_the_model_streams_after_the_prompt():
    model = bigram()
    prompt = torch.as_tensor(LETTERS.encode("ab"))[None]
    expected = "".join(LETTERS.decode(token.tolist()) for token in stream(model, prompt, 20, temperature=0.0))
    assert generate_whole(model, LETTERS, "ab", 20, greedy=True, temperature=2.0, top_p=0.5) == ["ab" + expected]
    assert generate_whole(model, LETTERS, "ab", 20, temperature=0.0) == ["ab" + expected]


def test_the_seed_alone_decides():
    model = bigram()
    (first,) = generate_whole(model, LETTERS, "a", 40, seed=0)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert generate_whole(model, LETTERS, "a", 40, seed=0) == [first]
    assert torch.equal(torch.get_rng_state(), state)
    assert generate_whole(model, LETTERS, "a", 40, seed=1) != [first]


def test_without_a_prompt_a_text_begins_after_a_newline_that_is_not_part_of_it():
    model = bigram()
    (after_newline,) = generate_whole(model, LETTERS, "\n", 25)
    assert generate_whole(model, LETTERS, "", 25) == [after_newline.removeprefix("\n")]


def test_without_newlines_a_text_begins_after_its_most_frequent_character():
    torch.manual_seed(0)
    model, vocabulary = Bigram(3), Characters.of("abcbabccc")
    (after_c,) = generate_whole(model, vocabulary, "c", 25)
    assert generate_whole(model, vocabulary, "", 25) == [after_c.removeprefix("c")]
    with pytest.raises(UserError, match="newline"):
        generate(model, Characters("abc"), "", 5)  # of a former checkpoint, which does not know


def test_overflow_reaches_the_model():
    torch.manual_seed(0)
    model = Backbone(
        len(LETTERS),
        context_length=4,
        embed_dim=8,
        num_layers=1,
        mixer=partial(Attention, num_heads=1),
        feed_forward=None,
        position=Learned,
        norm=None,
    )
    nn.init.normal_(model.readout.weight, std=3)
    (slide,), (rebase,) = (
        generate_whole(model, LETTERS, "a", 60, overflow=overflow) for overflow in ("slide", "rebase")
    )
    assert slide[:5] == rebase[:5]  # the prompt and four characters are drawn before one has to go
    assert slide != rebase


def test_a_model_that_is_not_autoregressive_gives_whole_texts():
    assert list(generate(Successor(), LETTERS, "a", 3, num_samples=2)) == [("bcd", "bcd")]
    assert generate_whole(Successor(), LETTERS, "ca", 3) == ["cabcd"]
    assert list(generate(Successor(), LETTERS, "a", 0)) == []


def test_every_part_of_the_model_gets_its_mode_back():
    model = bigram()
    model.frozen = nn.Dropout().eval()
    pieces = generate(model, LETTERS, "a", 5)
    assert model.training  # nothing has happened yet
    next(pieces)
    assert not model.training
    pieces.close()  # a caller that stops early restores it too
    assert model.training
    assert not model.frozen.training
    list(generate(model, LETTERS, "a", 5))
    assert model.training
    assert not model.frozen.training


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": "aß"}, r"the prompt.*U\+00DF"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"length": -2}, "length=-2"),
        ({"top_k": -1}, "top_k=-1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
@pytest.mark.parametrize("model", [bigram(), Successor()], ids=["autoregressive", "other"])
def test_wrong_arguments_are_refused_at_the_call(model, arguments, named):
    with pytest.raises(UserError, match=named):
        generate(model, LETTERS, **({"prompt": "a", "length": 3} | arguments))


def test_the_next_character_is_computed_at_the_end_of_the_prompt_only():
    torch.manual_seed(0)
    model, read_out = LSTM(len(LETTERS), embed_dim=8, hidden_dim=8, num_layers=1, dropout=0.0), []
    model.readout.register_forward_hook(lambda _, inputs, __: read_out.append(inputs[0].shape[:-1].numel()))
    found = next_characters(model, LETTERS, "ab\n" * 30)
    assert read_out == [1]
    logits = model(torch.as_tensor(LETTERS.encode("ab\n" * 30)).long()[None])[0, -1]
    assert found == pytest.approx(dict(zip(LETTERS.characters, logits.softmax(-1).tolist(), strict=True)), abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-46, 5e-324])
def test_the_probabilities_at_a_tiny_temperature_are_those_of_a_greedy_choice(temperature):
    ((best, probability), *others) = next_characters(bigram(), LETTERS, "a", temperature=temperature).items()
    assert (probability, {rest for _, rest in others}) == (1.0, {0.0})
    assert best == generate_whole(bigram(), LETTERS, "a", 1, greedy=True)[0][1]


def test_a_prompt_that_a_model_finds_impossible_has_no_next_character():
    model = bigram()
    nn.init.constant_(model.table.weight, -torch.inf)
    with pytest.raises(UserError, match="finds this text impossible"):
        next_characters(model, LETTERS, "a")


def test_the_probabilities_are_the_same_on_a_device_without_float64():
    class OnMps(Bigram):
        def read_prompt(self, tokens, state):
            logits, state = super().read_prompt(tokens, state)
            return logits.as_subclass(WithoutFloat64), state

    torch.manual_seed(0)
    assert next_characters(OnMps(len(LETTERS)), LETTERS, "a") == next_characters(bigram(), LETTERS, "a")
