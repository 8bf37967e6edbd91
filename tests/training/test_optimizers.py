"""Other people's optimizers, as Lightning drives them, against their papers' equations."""

import importlib.util

import pytest
import torch
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.training.callbacks.averaging import Averaging
from charlab.training.optimizers import optimizer_from
from charlab.training.schedules import Constant, WarmupStableDecay
from tests.references import optimizers as reference
from tests.training import options

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function

SCHEDULE = WarmupStableDecay(warmup=0.5, decay=0.0, final=0.0)
RATES = [0.02 * SCHEDULE((step + 0.5) / 6) for step in range(6)]


@pytest.fixture
def windows():
    """The six batches that a run sees."""
    data = options.data()
    starts = iter(data.train_dataloader())
    return [data.on_after_batch_transfer(next(starts), 0) for _ in range(6)]


def new_model():
    torch.manual_seed(0)
    return Bigram(len(options.data().vocabulary)).double()


def train(folder, name, schedule=SCHEDULE, **settings):
    """Return the checkpoint of a model trained with a shipped optimizer."""
    optimizer = options.chosen(f"optimizer/{name}", lr=0.02, weight_decay=0.3, decayed="all", **settings)
    model = new_model()
    options.train(folder, model, optimizer=optimizer, schedule=schedule, precision="64-true")
    assert torch.equal(options.checkpoint(folder)["state_dict"]["model.table.weight"], model.table.weight)
    return options.checkpoint(folder)


def gradient(table, window):
    table = table.clone().requires_grad_()
    F.cross_entropy(table[window[:, :-1]].flatten(0, 1), window[:, 1:].flatten()).backward()
    return table.grad


def test_lion_steps_by_signs(tmp_path, windows):
    expected = reference.Lion(new_model().table.weight.detach())
    for window, rate in zip(windows, RATES, strict=True):
        expected.step(gradient(expected.weight, window), lr=rate, betas=(0.8, 0.95), weight_decay=0.3)
    trained = train(tmp_path, "lion", betas=[0.8, 0.95])["state_dict"]["model.table.weight"]
    torch.testing.assert_close(trained, expected.weight)


def test_schedule_free_adamw_trains_one_point_and_keeps_the_average(tmp_path, windows):
    expected = reference.ScheduleFreeAdamW(new_model().table.weight.detach())
    for window, rate in zip(windows, RATES, strict=True):
        expected.step(gradient(expected.where(0.8), window), lr=rate, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.3)
    saved = train(tmp_path, "schedule_free_adamw", betas=[0.8, 0.95])
    torch.testing.assert_close(saved["training_weights"]["model.table.weight"], expected.where(0.8))
    torch.testing.assert_close(saved["state_dict"]["model.table.weight"], expected.x)
    assert (expected.x - expected.where(0.8)).abs().max() > 1e-4


@pytest.mark.parametrize("foreach", [False, True])
def test_schedule_free_adamw_adds_the_epsilon_that_is_set_and_no_other(foreach):
    layer = torch.nn.Linear(3, 5, bias=False)
    settings = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = options.chosen("optimizer/schedule_free_adamw", **settings | {"betas": [0.9, 0.95]})(layer)
    optimizer.param_groups[0]["foreach"] = foreach
    expected = reference.ScheduleFreeAdamW(layer.weight.detach())
    for step in range(3):
        tiny = 1e-8 * torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        layer.weight.grad = tiny.clone()
        optimizer.step()
        expected.step(tiny, **settings)
    torch.testing.assert_close(layer.weight.detach(), expected.where(0.9), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_sam_takes_the_gradient_where_the_loss_nearby_is_highest(tmp_path, windows):
    weight = new_model().table.weight.detach().clone().requires_grad_()
    adamw = torch.optim.AdamW([weight], lr=0.02, weight_decay=0.3)
    for window in windows:
        weight.grad = reference.sharpest(weight.detach(), lambda w: gradient(w, window), rho=0.5)  # noqa: B023
        adamw.step()
    trained = train(tmp_path, "sam", Constant(), rho=0.5)["state_dict"]["model.table.weight"]
    torch.testing.assert_close(trained, weight.detach())


def test_sam_counts_a_batch_once_and_reports_the_loss_at_the_weights(tmp_path, windows):
    optimizer = options.chosen("optimizer/sam", lr=1e-9, rho=3.0)
    module = options.train(tmp_path, new_model(), optimizer=optimizer, precision="64-true")
    assert module.micro_batches == 6
    assert module.characters_seen == 6 * 4 * 8
    with torch.no_grad():
        assert module.last_loss.item() == pytest.approx(new_model().loss(windows[-1]).item(), abs=1e-6)


def test_sam_refuses_what_it_cannot_do(tmp_path):
    optimizer = options.chosen("optimizer/sam")
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches=1"):
        options.train(tmp_path, new_model(), optimizer=optimizer, accumulate_grad_batches=2)
    with pytest.raises(UserError, match=r"trainer\.precision"):
        optimizer(new_model()).step()


def decayed_sgd(params, *, lr):
    return torch.optim.SGD(params, lr=lr, weight_decay=0.1)


def test_a_function_of_parameters_is_given_them():
    optimizer = optimizer_from({"_target_": f"{__name__}.decayed_sgd", "lr": 0.1})(new_model())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


def test_lbfgs_of_torch_refuses_to_accumulate(tmp_path):
    optimizer = optimizer_from({"_target_": "torch.optim.LBFGS", "lr": 0.1})
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches=1"):
        options.train(tmp_path, new_model(), optimizer=optimizer, accumulate_grad_batches=2)


def test_an_average_of_averages_is_refused(tmp_path):
    average = Averaging(decay=0.9, start=0.0, every_n_steps=1)
    optimizer = options.chosen("optimizer/schedule_free_adamw")
    with pytest.raises(UserError, match="averaging=none"):
        options.train(tmp_path, new_model(), optimizer=optimizer, callbacks=[average])


@pytest.mark.parametrize("name", ["lion", "schedule_free_adamw", "sam"])
def test_without_the_library_one_is_told_how_to_get_it(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"optimizer={name} .*pip install 'charlab\[optimizers\]'"):
        options.chosen(f"optimizer/{name}")(new_model())
