"""An exported model computes what the run's model does, in a process without charlab."""

import json
import subprocess
import sys
from importlib import util

import pytest
import torch

import charlab
from charlab import cli
from charlab.errors import UserError
from tests.helpers.models import MODELS

ALONE = "import sys; sys.modules['charlab'] = None; folder = sys.argv[1]\n"
COMPUTED = {
    "torch": """
import torch
files = {"charlab.json": ""}
program = torch.export.load(f"{folder}/model.pt2", extra_files=files).module()
described = files["charlab.json"]
logits = {n: program(ids) for n, ids in torch.load(f"{folder}/ids.pt").items()}
""",
    "onnx": """
import onnx, onnxruntime, torch
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
described = {p.key: p.value for p in onnx.load(f"{folder}/model.onnx").metadata_props}["charlab"]
logits = {n: torch.from_numpy(session.run(["logits"], {"ids": ids.numpy()})[0])
          for n, ids in torch.load(f"{folder}/ids.pt").items()}
""",
    "safetensors": """
import safetensors, torch
with safetensors.safe_open(f"{folder}/model.safetensors", "pt") as file:
    described = file.metadata()["charlab"]
    logits = {name: file.get_tensor(name) for name in file.keys()}
""",
}
KEEP = 'torch.save(logits, f"{folder}/logits.pt"); open(f"{folder}/described.json", "w").write(described)\n'


def computed(form, folder):
    """Return what the exported file gives in a process that cannot import charlab, and its description."""
    code = ALONE + COMPUTED[form] + KEEP
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "logits.pt"), json.loads((folder / "described.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_program_gives_the_models_logits(form, finished_run, tmp_path):
    pytest.importorskip("onnxscript" if form == "onnx" else "torch")
    file = charlab.export(finished_run.folder, form, output=tmp_path)
    model, vocabulary = charlab.load(finished_run.folder)
    described = json.loads((tmp_path / "charlab.json").read_text())
    assert described["vocabulary"] == vocabulary.characters
    assert described["length"][1] == model.context_length == 8
    batches = {length: torch.randint(len(vocabulary), (3, length)) for length in {described["length"][0], 5, 8}}
    if described["length"][0] == 8:
        del batches[5]
    torch.save(batches, tmp_path / "ids.pt")
    logits, kept = computed(form, tmp_path)
    assert file.parent == tmp_path
    assert kept == described
    for length, ids in batches.items():
        with torch.no_grad():
            assert torch.allclose(logits[length], model(ids), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_weights_have_configuration_and_vocabulary_with_them(finished_run, tmp_path):
    pytest.importorskip("safetensors")
    charlab.export(finished_run.folder, output=tmp_path)
    weights, described = computed("safetensors", tmp_path)
    model, vocabulary = charlab.load(finished_run.folder)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert described["run"]["fingerprint"] == finished_run.fingerprint
    assert described["model"]["_target_"] == "charlab.models.backbone.Backbone"
    assert described["vocabulary"] == vocabulary.characters


@pytest.fixture
def run(text_path, tmp_path):
    """Return a function that trains a model for two steps."""
    brief = ["data=textfile", f"data.path={text_path}", "data.context_length=8", "data.batch_size=4", "logger=csv"]
    quick = ["trainer.accelerator=cpu", "trainer.max_steps=2", f"output_dir={tmp_path / 'outputs'}"]
    return lambda *more: charlab.run(*brief, *quick, "~callbacks.attention_maps", *more)


COUNTS = ("neural_ngram", "ngram_kneser_ney", "ngram_witten_bell")
REFUSED = {
    **{(model, form): r"cannot hold Neural|cannot hold NGram" for model in COUNTS for form in ("torch", "onnx")},
    **{("masked_diffusion", form): "MaskedDiffusion has no logits of the next" for form in ("torch", "onnx")},
    **{("context_mixing", form): "cannot hold ContextMixing" for form in ("torch", "onnx")},
    **{("block_diffusion", form): "BlockDiffusion has no logits of the next" for form in ("torch", "onnx")},
    (
        "s4d",
        "onnx",
    ): r"format=onnx cannot hold Backbone \(No ONNX function found .* complex-valued input",
}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_exported_or_refused_in_a_sentence(model, run, tmp_path):
    record = run(f"model={model}")
    trained, _ = charlab.load(record.folder)
    for form in ("torch", "onnx"):
        pytest.importorskip("onnxscript" if form == "onnx" else "torch")
        folder = tmp_path / form
        if (model, form) in REFUSED:
            with pytest.raises(UserError, match=REFUSED[model, form]):
                charlab.export(record.folder, form, output=folder)
            assert not folder.exists()
            continue
        charlab.export(record.folder, form, output=folder)
        described = json.loads((folder / "charlab.json").read_text())
        ids = torch.randint(trained.vocab_size, (described["batch"][1] or 3, described["length"][1] or 40))
        torch.save({"ids": ids}, folder / "ids.pt")
        with torch.no_grad():
            expected = trained(ids)
        logits = computed(form, folder)[0]["ids"]
        assert torch.equal(logits.isfinite(), expected.isfinite())
        scale = max(1.0, expected[expected.isfinite()].abs().max().item())
        difference = (logits - expected)[expected.isfinite()].abs().max().item()
        assert difference <= 1e-5 * scale
    charlab.export(record.folder, output=tmp_path / "weights")
    torch.save({}, tmp_path / "weights" / "ids.pt")
    weights, _ = computed("safetensors", tmp_path / "weights")
    assert weights.keys() == trained.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in trained.state_dict().items())


@pytest.mark.slow
def test_what_a_run_exports_is_in_its_folder(run, capsys):
    pytest.importorskip("safetensors")
    record = run("model=bigram")
    capsys.readouterr()
    assert cli.main(["export", f"run={record.folder}"]) == 0
    file = record.folder / "export" / "model.safetensors"
    assert capsys.readouterr().out.split() == [str(file), str(file.with_name("charlab.json"))]
    assert file.exists()
    assert cli.main(["runs", "remove", str(record.folder), "force=true"]) == 0
    assert not record.folder.exists()


@pytest.mark.slow
def test_what_cannot_be_exported_ends_in_a_sentence(run, finished_run, tmp_path, capsys, monkeypatch):
    record = run("model=masked_diffusion", "model.embed_dim=8", "model.num_layers=1", "model.mixer.num_heads=2")
    capsys.readouterr()
    for arguments, sentence in [
        ([f"run={record.folder}", "format=torch"], "MaskedDiffusion has no logits of the next character"),
        (["run=ffffffff"], "There is no run ffffffff"),
        ([f"run={finished_run.folder}", "format=gguf"], "format must be one of 'safetensors', 'torch', 'onnx'"),
    ]:
        assert cli.main(["export", *arguments, f"output={tmp_path / 'exported'}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(sentence)
        assert said.count("\n") == 1
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"format=onnx needs onnx and onnxscript and onnxruntime: pip install"):
        charlab.export(finished_run.folder, "onnx", output=tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_a_model_that_an_exporter_cannot_follow_is_named(finished_run, tmp_path, monkeypatch):
    from charlab.models.backbone import Backbone

    original = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, ids: original(self, ids) * float(str(ids.sum().item())))
    with pytest.raises(UserError, match=r"format=torch cannot hold Backbone \(.*\): use format=safetensors"):
        charlab.export(finished_run.folder, "torch", output=tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
