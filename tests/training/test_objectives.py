"""What training minimizes: label smoothing, and truncated backpropagation through time."""

import pytest
import torch

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.models.hmm import HiddenMarkovModel
from charlab.models.rnn import GRU, LSTM
from charlab.training.objectives import LabelSmoothing, Objective, TruncatedBackpropagation
from tests.training import options, small

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function


def test_label_smoothing_spreads_a_share_of_each_target():
    torch.manual_seed(0)
    model, window = Bigram(7), torch.randint(7, (3, 6))
    logs = model(window[:, :-1]).log_softmax(-1)
    targets = torch.full_like(logs, 0.3 / 7)
    targets.scatter_add_(2, window[:, 1:, None], torch.full((3, 5, 1), 0.7))
    expected = -(targets * logs).sum(-1).mean()
    loss = LabelSmoothing(amount=0.3)(model, window)
    torch.testing.assert_close(loss, expected)
    actual, reference = (torch.autograd.grad(value, model.table.weight)[0] for value in (loss, expected))
    torch.testing.assert_close(actual, reference)
    torch.testing.assert_close(LabelSmoothing(amount=0.0)(model, window), model.loss(window))


def test_what_is_reported_is_not_smoothed(tmp_path):
    torch.manual_seed(0)
    model = Bigram(len(options.data().vocabulary))
    smoothing = LabelSmoothing(amount=0.5)
    still = lambda m: torch.optim.SGD(m.parameters(), lr=0.0)  # noqa: E731
    module = options.train(tmp_path, model, optimizer=still, objective=smoothing, max_steps=1)
    data = options.data()
    window = data.on_after_batch_transfer(next(data.train_dataloader()), 0)
    torch.testing.assert_close(module.last_loss, smoothing(model, window).detach())
    assert abs(model.nll(window).mean() - module.last_loss) > 0.01


def test_truncated_backpropagation_carries_the_state_and_no_gradient(tmp_path):
    def new_model():
        torch.manual_seed(0)
        return LSTM(len(options.data().vocabulary), embed_dim=6, hidden_dim=5, num_layers=2, dropout=0.0)

    trained, expected = new_model(), new_model()
    options.train(
        tmp_path,
        trained,
        optimizer=options.chosen("optimizer/sgd", lr=1.0),
        objective=TruncatedBackpropagation(),
        order="contiguous",
        schedule=lambda spent: 1.0,
        accumulate_grad_batches=2,
    )
    data = options.data("contiguous")
    data.batch_size = 8
    starts = data.train_dataloader()
    optimizer = options.chosen("optimizer/sgd", lr=1.0)(expected)
    states = {0: None, 1: None}  # of the rows that each micro-batch reads
    for _ in range(6):
        optimizer.zero_grad()
        whole = data.on_after_batch_transfer(next(starts), 0)
        for part, window in enumerate(whole.split(4)):
            hidden, state = expected.recurrence(expected.embedding(window[:, :-1]), states[part])
            states[part] = tuple(part.detach() for part in state)
            logits = expected.readout(hidden)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
            (loss / 2).backward()
        optimizer.step()
    for a, b in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(options.checkpoint(tmp_path)["objective"][0]["states"], states)


def test_accumulation_divides_a_step_and_changes_nothing_else(tmp_path):
    """The same windows give the same gradient, up to rounding, in one piece and in four."""
    trained = []
    for parts in (1, 4):
        data = small.datamodule(batch_size=8)
        torch.manual_seed(0)
        module = small.module(GRU(len(data.vocabulary), embed_dim=4, hidden_dim=5, num_layers=1, dropout=0.0), lr=1.0)
        small.trainer(tmp_path, [], max_steps=3, accumulate_grad_batches=parts).fit(module, datamodule=data)
        trained.append(list(module.parameters()))
    for whole, divided in zip(*trained, strict=True):
        torch.testing.assert_close(divided, whole)


def test_a_batch_asked_for_twice_begins_with_the_same_state():
    torch.manual_seed(0)
    model, objective = GRU(7, embed_dim=4, hidden_dim=5, num_layers=1, dropout=0.0), TruncatedBackpropagation()
    losses = []
    for window in torch.randint(7, (2, 3, 6)):
        objective.begin_batch(0)
        losses.append([objective(model, window).item() for _ in range(2)])
        assert losses[-1][0] == losses[-1][1]
    assert losses[1][0] != model.loss(window).item()


def test_a_trial_leaves_no_state_behind():
    """As compilation does: save, compute a loss, restore."""
    torch.manual_seed(0)
    model, objective = GRU(7, embed_dim=4, hidden_dim=5, num_layers=1, dropout=0.0), TruncatedBackpropagation()
    window = torch.randint(7, (3, 6))
    saved = objective.state_dict()
    first = objective(model, window)
    objective.load_state_dict(saved)
    objective.begin_batch(0)
    assert objective(model, window) == first


GATED = GRU(7, embed_dim=4, hidden_dim=5, num_layers=1, dropout=0.0)
HIDDEN = HiddenMarkovModel(5, num_states=3, parameterization="log_probabilities")


@pytest.mark.parametrize(
    ("objective", "model", "order", "message"),
    [
        (TruncatedBackpropagation(), GATED, "random", r"data\.order=contiguous"),
        (TruncatedBackpropagation(), Bigram(7), "contiguous", "objective=none"),
        (LabelSmoothing(amount=0.1), HIDDEN, "random", "objective=none"),
    ],
    ids=["random windows", "no state", "a loss of its own"],
)
def test_what_does_not_fit_is_refused(objective, model, order, message):
    with pytest.raises(UserError, match=message):
        objective.check(model, order)
    Objective().check(model, order)
