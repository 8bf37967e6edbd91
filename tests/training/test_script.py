"""Module and datamodule in a script of ten lines, with a Trainer of the user's own."""

import json
import subprocess
import sys
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, Estimate, evaluate
from charlab.models.bigram import Bigram
from charlab.training.callbacks.averaging import Averaging
from charlab.training.module import LanguageModelModule
from tests.evaluation.small_models import Bound
from tests.helpers.warm import warm
from tests.training import small

SCRIPT = """
import torch
from lightning.pytorch import Trainer
from charlab.data.corpora import TextFile
from charlab.data.datamodule import CharacterDataModule
from charlab.models.bigram import Bigram
from charlab.training.module import LanguageModelModule
from charlab.training.schedules import WarmupCosine

data = CharacterDataModule(corpus=TextFile(path="text.txt"), context_length=8, batch_size=4, train_fraction=0.7,
                           validation_fraction=0.1, dev_fraction=0.1, test_fraction=0.2, seed=1)
data.setup()
torch.manual_seed(0)
module = LanguageModelModule(Bigram(len(data.vocabulary)), schedule=WarmupCosine(warmup=0.1, final=0.1),
                             optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=0.1))
trainer = Trainer(max_steps=30, accelerator="cpu", log_every_n_steps=10, enable_progress_bar=False)
before = trainer.validate(module, data, verbose=False)
trainer.fit(module, data)
after = trainer.validate(module, data, verbose=False)
test = trainer.test(module, data, verbose=False)
nll = torch.cat(trainer.predict(module, data))
"""

CHECKS = """
import glob, math
first = {name: value for part in before for name, value in part.items()}
last = {name: value for part in after for name, value in part.items()}
assert abs(first["validation/nll"] - math.log(len(data.vocabulary))) < 1, first
for split in ("train", "validation", "dev"):
    assert last[f"{split}/nll"] < first[f"{split}/nll"] - 0.3, (first, last)
from charlab.evaluation.protocols import Blocks, evaluate
for split, found in (("test", test[0]["test/nll"]), ("validation", nll.double().mean().item())):
    score = evaluate(module.model, data.splits[split], Blocks(), context_length=8, batch_size=4)
    assert abs(score.nll - found) < 1e-5, (split, score, found)
assert len(nll) == len(data.splits["validation"]) - 1
(log,) = glob.glob("lightning_logs/version_0/events*")[:1]
"""


def test_a_script_of_ten_lines_validates_fits_tests_and_predicts(tmp_path):
    (tmp_path / "text.txt").write_text(small.TEXT)
    done = subprocess.run(warm([sys.executable, "-c", SCRIPT + CHECKS]), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_validate_predict_and_evaluate_agree_character_by_character(tmp_path):
    data, module = small.datamodule(), small.module(Bigram(len(small.datamodule().vocabulary)))
    trainer = small.trainer(tmp_path, [], max_steps=1, limit_val_batches=1.0)
    figures = {name: value for part in trainer.validate(module, data, verbose=False) for name, value in part.items()}
    for split in ("train", "validation"):
        protocol = Estimate(num_batches=data.estimate_batches, batch_size=4, seed=data.seed)
        score = evaluate(module.model, data.splits[split], protocol, context_length=8, batch_size=4)
        assert figures[f"{split}/nll"] == pytest.approx(score.nll, rel=1e-6)
        found, expected = module.scores[split].as_dict(), score.as_dict()
        assert found.keys() == expected.keys()
        assert all(found[key] == pytest.approx(expected[key], rel=1e-6) for key in ("nll", "bpc", "perplexity"))
        assert {**found, **{key: expected[key] for key in ("nll", "bpc", "perplexity")}} == expected
    nll = torch.cat(trainer.predict(module, data))
    score = evaluate(module.model, data.splits["validation"], Blocks(), context_length=8, batch_size=4)
    np.testing.assert_allclose(nll, score.per_character, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("model", [Bigram, lambda _: Bound(1.0)], ids=["exact", "bound"])
def test_a_limited_validation_says_how_much_it_scored(tmp_path, model):
    data = small.datamodule(dev_fraction=0.3)
    module, scored = small.module(model(len(data.vocabulary))), 2 * 4 * 8
    small.trainer(tmp_path, [], max_steps=1, limit_val_batches=2).validate(module, data, verbose=False)
    for score in module.scores.values():
        assert (score.characters, score.settings["limit_val_batches"]) == (scored, 2)
    begun = data.splits["dev"][: scored + 1]
    expected = evaluate(module.model, begun, Blocks(), context_length=8, batch_size=4)
    assert module.scores["dev"].nll == pytest.approx(expected.nll, rel=1e-6)
    assert (module.scores["dev"].standard_error or 0.0) == pytest.approx(expected.standard_error or 0.0, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_without_a_test_split_trainer_test_says_how_to_get_one(tmp_path):
    data, module = small.datamodule(), small.module(Bigram(len(small.datamodule().vocabulary)))
    with pytest.raises(UserError, match=r"no test split: set data\.test_fraction"):
        small.trainer(tmp_path, [], max_steps=1).test(module, data)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_figure_of_a_bound_does_not_depend_on_the_micro_batch(tmp_path):
    scores = []
    for accumulated in (1, 2, 4):
        data, module = small.datamodule(), small.module(Bound(1.0))
        settings = {"limit_val_batches": 1.0, "accumulate_grad_batches": accumulated}
        small.trainer(tmp_path, [], max_steps=1, **settings).validate(module, data, verbose=False)
        scores.append(module.scores)
    assert scores[0] == scores[1] == scores[2]
    protocol = Estimate(num_batches=data.estimate_batches, batch_size=4, seed=data.seed)
    score = evaluate(module.model, data.splits["train"], protocol, context_length=8, batch_size=4)
    assert score.nll == pytest.approx(scores[0]["train"].nll, rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_trainer_test_counts_a_look_where_there_is_a_record(tmp_path):
    data = small.datamodule(test_fraction=0.05, validation_fraction=0.05)
    module = small.module(Bigram(len(data.vocabulary)))
    record = tmp_path / "record.json"
    for looks in (None, 1, 2):
        if looks == 1:
            record.write_text(json.dumps({"status": "finished"}))
        small.trainer(tmp_path, [], max_steps=1).test(module, data, verbose=False)
        if looks is not None:
            assert json.loads(record.read_text()) == {"status": "finished", "test_looks": looks}
    assert looks == 2


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_lightning_loads_a_module_from_a_checkpoint(tmp_path):
    data = small.datamodule()
    trained, other = (small.module(Bigram(len(data.vocabulary))) for _ in range(2))
    trainer = small.trainer(tmp_path, [], max_steps=2)
    trainer.fit(trained, data)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    parts = {"model": other.model, "optimizer": other.optimizer, "schedule": other.schedule}
    loaded = LanguageModelModule.load_from_checkpoint(tmp_path / "mine.ckpt", weights_only=True, **parts)
    assert torch.equal(loaded.model.table.weight, trained.model.table.weight)
    assert loaded.characters_seen == trained.characters_seen == 2 * 4 * 8


class MinutePerStep(Timer):
    """A timer for which every step takes a minute."""

    steps = 0

    def time_elapsed(self, stage="train"):
        return 60.0 * self.steps

    def on_train_batch_end(self, trainer, *args, **kwargs):
        self.steps += 1
        super().on_train_batch_end(trainer, *args, **kwargs)

    def load_state_dict(self, state_dict):
        self.steps = int(state_dict["time_elapsed"]["train"] / 60)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # Lightning's, of the checkpoints
@pytest.mark.parametrize("limit", ["epochs", "time"])
def test_training_goes_on_from_a_checkpoint_under_a_larger_limit(tmp_path, limit):
    def fit(name, steps, ckpt_path=None):
        torch.manual_seed(0)
        data = small.datamodule()
        data.epoch_steps = 3
        timers = [MinutePerStep(timedelta(minutes=steps))] if limit == "time" else []
        trainer = Trainer(
            default_root_dir=tmp_path / name,
            accelerator="cpu",
            max_epochs=steps // 3 if limit == "epochs" else -1,
            callbacks=[Averaging(decay=0.6, start=0.0, every_n_steps=1), *timers],
            logger=False,
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = small.module(small.SmallAttention(len(data.vocabulary)))
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return trainer, module.model.state_dict()

    first, _ = fit("first", 3)
    for steps in (3, 9):  # the same limit trains nothing
        _, whole = fit(f"whole {steps}", steps)
        trainer, weights = fit(f"more {steps}", steps, first.checkpoint_callback.best_model_path)
        assert trainer.global_step == steps
        assert all(torch.equal(value, whole[name]) for name, value in weights.items())


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_models_that_share_their_data_are_trained_on_the_same_windows(tmp_path):
    data, trained = small.datamodule(), []
    for steps in (2, 3, 3):
        torch.manual_seed(0)
        trained.append(small.module(Bigram(len(data.vocabulary))))
        small.trainer(tmp_path, [], max_steps=steps).fit(trained[-1], data)
    assert torch.equal(trained[1].model.table.weight, trained[2].model.table.weight)
    small.trainer(tmp_path, [], max_steps=1).fit(trained[0], data)  # goes on with new windows
    torch.testing.assert_close(trained[0].model.table.weight, trained[1].model.table.weight)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_plateau_that_would_never_be_seen_is_refused(tmp_path):
    data, plateau = small.datamodule(), partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
    model, sgd = Bigram(len(data.vocabulary)), partial(torch.optim.SGD, lr=0.1)
    module = LanguageModelModule(model, optimizer=lambda model: sgd(model.parameters()), schedule=plateau)
    with pytest.raises(UserError, match=r"set data\.dev_fraction"):
        small.trainer(tmp_path, [], max_steps=1).fit(module, data)


def test_dataloaders_alone_are_not_enough(tmp_path):
    data, module = small.datamodule(), small.module(Bigram(len(small.datamodule().vocabulary)))
    trainer = small.trainer(tmp_path, [], max_steps=1, limit_val_batches=1.0)
    with pytest.raises(UserError, match=r"give the trainer the datamodule itself"):
        trainer.validate(module, data.val_dataloader())
