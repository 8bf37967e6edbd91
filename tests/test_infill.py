import pytest
import torch
from torch import nn

from charlab.data.bpe import BytePairs
from charlab.data.tokenizers import Bytes, Characters
from charlab.errors import UserError
from charlab.generation import infill
from charlab.models.bigram import Bigram
from charlab.models.contract import InfillingModel

LETTERS = Characters.of("\n abcdé")


class Successor(InfillingModel):
    """Fill a blank in with the character after the one before, moved on at random; greedily it is not moved."""

    likelihood = "bound"
    context_length = None

    def __init__(self, vocabulary=LETTERS):
        super().__init__()
        self.vocab_size = len(vocabulary)
        self.frozen = nn.Dropout().eval()

    def nll(self, window, *, scored_from=1, generator=None):
        raise NotImplementedError

    sample = nll

    def infill(self, tokens, mask, *, temperature=1.0, top_k=None, top_p=None, generator=None):
        assert not self.training
        assert (top_k, top_p) == (5, 0.5)
        filled = tokens.clone()
        for row, place in mask.nonzero().tolist():
            moved = torch.randint(self.vocab_size, (), generator=generator) if temperature else 0
            filled[row, place] = (filled[row, place - 1] + 1 + moved) % self.vocab_size
        return filled


def fill(text, model=None, vocabulary=LETTERS, **options):
    return infill(model or Successor(vocabulary), vocabulary, text, top_k=5, top_p=0.5, **options)


def test_underscores_are_filled_in_and_the_rest_stays():
    assert fill("a__ é_\n", greedy=True) == ["abc é\n\n"]
    assert fill("a__ é_\n", temperature=0.0, num_samples=2) == ["abc é\n\n"] * 2
    assert fill("a_", vocabulary=Characters.of("\n _abc"), greedy=True) == ["ab"]
    assert fill("_a?_", vocabulary=Characters.of("\n _abc"), blank="?", greedy=True) == ["_ab_"]


def test_a_leading_underscore_follows_a_newline():
    assert fill("__b", greedy=True) == [" ab"]
    with pytest.raises(UserError, match="no newline"):
        fill("_b", vocabulary=Characters.of("abcdefg"))
    assert fill("b_", vocabulary=Characters.of("abcdefg"), greedy=True) == ["bc"]


def test_a_blank_is_one_token_whatever_tokens_are():
    text = Bytes.of("\n abcdé")  # tokens: newline, space, a, b, c, d and the two bytes of é
    assert fill("a__ é\n_", vocabulary=text, greedy=True) == ["abc é\n "]
    assert fill("a_é", vocabulary=text, greedy=True) == ["abé"]
    assert fill("d_", vocabulary=text, greedy=True) == ["d\udca9"]  # half of an é
    assert fill("__b", vocabulary=text, greedy=True) == [" ab"]
    pytest.importorskip("tokenizers")
    pairs = BytePairs("\n abc", None, (("a", "b"),))  # tokens: newline, space, a, b, c, ab
    assert fill("ab _c_", vocabulary=pairs, greedy=True) == ["ab acab"]
    with pytest.raises(UserError, match=r"Character 4 of the text to be filled in.*U\+00DF"):
        fill("ab_ß", vocabulary=pairs)


def test_the_seed_alone_decides():
    text = "a" + 30 * "_"
    first, second = fill(text, seed=0, num_samples=2)
    assert first != second
    torch.manual_seed(77)
    assert fill(text, seed=0, num_samples=2) == [first, second]
    assert fill(text, seed=1, num_samples=2) != [first, second]


def test_every_part_of_the_model_gets_its_mode_back():
    model = Successor()
    fill("a_", model)
    assert model.training
    assert not model.frozen.training


@pytest.mark.parametrize(
    ("text", "options", "named"),
    [
        ("abc", {}, "has no _: put one for each character"),
        ("", {}, "has no _"),
        ("a_ß", {}, r"Character 3 of the text to be filled in.*U\+00DF"),
        ("a_", {"blank": "__"}, "blank=__ is not one character"),
        ("a_", {"blank": ""}, "blank= is not one character"),
        ("a_", {"num_samples": 0}, "num_samples=0"),
        ("a_", {"temperature": -1.0}, "temperature=-1.0"),
        ("a_", {"model": Bigram(len(LETTERS))}, "Bigram model can only continue a text: .*prompt=….*masked_diffusion"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(text, options, named):
    with pytest.raises(UserError, match=named):
        fill(text, **options)
