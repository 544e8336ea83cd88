"""MEFT: units of three layouts, the start and the way back, arms, files, and what is refused."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Done, Failed, Job, Progress, finish
from engine.networks import _meft_models as models
from engine.networks._backbones import Backbone, Batch, Classifier, Vanilla
from engine.networks._meft import MeftConfig, MeftEncoder
from engine.networks.meft import adapter_file, fit, lora_file, measure, tasks, training
from engine.networks.meft.arms import ARMS, classifier, trained_parameters
from engine.reversible.memory import kept_bytes

TARGET = "engine.networks.meft.algorithm"


def told(operations: int) -> Progress:
    return Progress(0, 1, f"{operations} operations")


def tiny(kind: str, layers: int = 4, **changed: object):
    """A random model of transformers with this many layers of width 16."""
    from transformers import (
        BertConfig,
        BertModel,
        OPTConfig,
        OPTModel,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    torch.manual_seed(0)
    if kind == "opt":
        config = OPTConfig(**{
            "vocab_size": 40, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
            "num_hidden_layers": layers, "num_attention_heads": 2, "dropout": 0.0,
            "max_position_embeddings": 32, "attn_implementation": "eager",
        } | changed)  # fmt: skip
        return OPTModel(config).eval()
    shape = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager",
    } | changed  # fmt: skip
    if kind == "roberta":
        return RobertaForSequenceClassification(RobertaConfig(**shape)).eval()
    return BertModel(BertConfig(**shape)).eval()


def some_batch(pad: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (3, 6), generator=generator)
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[0, 4:], ids[0, 4:] = 0, pad
    return Batch(ids, mask)


def gradients(network: Classifier, batch: Batch) -> dict[str, torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(network(batch), torch.tensor([0, 1, 0]))
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


# ---------------------------------------------------------------------- layouts


@pytest.mark.parametrize("kind", ["bert", "roberta", "opt"])
def test_a_model_taken_apart_computes_what_it_did(kind: str):
    model, batch = tiny(kind), some_batch()
    backbone = Backbone(model, pool="mean")
    body = getattr(model, "roberta", model)
    with torch.no_grad():
        truth = body(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
        found = Classifier(backbone, Vanilla(backbone.layers), None).hidden(batch)
    seen = batch.mask.bool()
    assert torch.allclose(found[seen], truth[seen], rtol=0, atol=2e-6)


def test_the_opt_that_norms_afterwards_and_projects_is_known_too():
    model = tiny("opt", do_layer_norm_before=False, word_embed_proj_dim=8)
    batch, backbone = some_batch(), Backbone(model)
    with torch.no_grad():
        truth = model(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
        found = Classifier(backbone, Vanilla(backbone.layers), 2).hidden(batch)
    assert torch.allclose(found[batch.mask.bool()], truth[batch.mask.bool()], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta", "opt"])
@pytest.mark.parametrize("variant", [1, 2, 3])
def test_walking_back_gives_the_gradients_of_plain_autograd(kind: str, variant: int):
    batch, found = some_batch(), []
    for mode in ("plain", "checkpoint", "reversible"):
        backbone = Backbone(tiny(kind, 3)).double()
        arm = replace(ARMS["meft"], mode=mode)
        network = classifier(backbone, arm, 2, MeftConfig(variant, 0.5, 0.5, rank=3), 0).double()
        found.append(gradients(network, batch))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, grad in other.items():
            assert torch.allclose(grad, found[0][name], rtol=0, atol=1e-9), name


@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_dropout_is_replayed_in_both_layouts(kind: str):
    """OPT drops out by a function, which no module tells of."""
    changed = {"dropout": 0.2} if kind == "opt" else {"hidden_dropout_prob": 0.2}
    batch, found = some_batch(), []
    for mode in ("plain", "reversible"):
        backbone = Backbone(tiny(kind, 3, **changed)).double()
        arm = replace(ARMS["meft"], mode=mode)
        network = classifier(backbone, arm, 2, MeftConfig(1, 0.5, rank=3), 0).double().train()
        torch.manual_seed(3)
        found.append(gradients(network, batch))
    for name, grad in found[1].items():
        assert torch.allclose(grad, found[0][name], rtol=0, atol=1e-9), name


def test_the_layers_below_stay_as_they_were_and_get_no_gradient():
    backbone = Backbone(tiny("bert", 4))
    config = MeftConfig(1, reversible_layers=1, rank=2)
    network = classifier(backbone, ARMS["meft"], 2, config, 0)
    assert {name.split(".")[1] for name in network.body.adapters()} == {"0"}
    with kept_bytes(network, []) as kept:
        network(some_batch())
    stream = 3 * 6 * 16 * 4
    assert kept.total < 6 * stream


def test_kept_bytes_do_not_grow_with_the_layers():
    kept = []
    for layers in (2, 6):
        network = classifier(
            Backbone(tiny("bert", layers)), ARMS["meft-pure"], None, MeftConfig(rank=2), 0
        )
        batch = some_batch()
        x = network.backbone.embed(batch).detach()
        mask = network.backbone.additive(batch.mask, x.dtype)
        with kept_bytes(network, [x, mask]) as found:
            network.body(x, mask)
        kept.append(found.total)
    assert kept[0] == kept[1] == 2 * 3 * 6 * 16 * 4


def test_an_all_padding_text_gives_no_nan():
    batch = some_batch()
    empty = Batch(batch.tokens, torch.zeros_like(batch.mask))
    for kind in ("bert", "opt"):
        network = classifier(Backbone(tiny(kind)), ARMS["meft"], 2, MeftConfig(), 0)
        assert torch.isfinite(network(empty)).all()


# ---------------------------------------------------------------------- the start and the way back


@pytest.fixture(scope="module")
def digits() -> models.Encoder:
    return models.open_encoder(models.DIGITS)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [1, 2, 3])
def test_the_start_comes_nearer_as_lambda_falls(digits: models.Encoder, variant: int):
    task = tasks.digits_task("a")
    batch, labels = task.test.batch(digits, range(200)), task.test.labels[:200]
    found = list(measure.starts(digits, MeftConfig(variant), batch, labels, 0))
    agreement = [start.agreement for start in found]
    assert agreement == sorted(agreement)
    assert agreement[0] < 0.7 < 0.9 < agreement[-1]
    assert found[-1].accuracy > found[0].accuracy + 0.1
    original = measure.accuracy_of(digits, measure.features(digits, batch), labels)
    assert found[-1].accuracy > original - 0.05


def test_errors_climb_tenfold_a_layer_and_anchors_mend_them(digits: models.Encoder):
    task = tasks.digits_task("a")
    batch, labels = task.test.batch(digits, range(8)), task.test.labels[:8]
    found, trip = measure.errors(digits, MeftConfig(1), batch, labels, 0)
    inverse = [error.inverse for error in found]
    assert inverse[0] > 1e3 * inverse[-1], "A contraction of 0.1 a layer loses three digits in six."
    # Anchors lie four layers apart: no layer is further from one than the third is from the top.
    assert MeftConfig(1).anchor(6) == 8
    assert max(error.anchored_inverse for error in found) < 10 * inverse[2] < inverse[0]
    assert max(error.anchored_gradient for error in found) < 10 * found[2].gradient
    assert 10 * found[2].gradient < found[0].gradient
    assert trip.relative_error == pytest.approx(found[0].anchored_inverse)


def test_one_and_one_needs_no_anchor():
    assert MeftConfig(1, 1.0, 1.0).anchor(12) is None
    assert MeftConfig(1).anchor(12) == 8
    assert MeftConfig(3).anchor(12) == 4
    assert MeftConfig(1, anchor_every=None).anchor(12) is None


# ---------------------------------------------------------------------- arms and fine-tuning


def test_arms_train_what_they_say(digits: models.Encoder):
    counts = {
        name: trained_parameters(classifier(digits.fork().backbone, arm, 10, MeftConfig(), 0))
        for name, arm in ARMS.items()
    }
    assert counts["head"] == 650
    assert counts["meft"] == counts["meft-plain"] == counts["meft-pure"] == 13_802
    assert 0.8 < counts["lora"] / counts["meft"] < 1.2
    assert counts["full"] > 20 * counts["meft"]


@pytest.mark.parametrize("name", ["full", "lora", "meft"])
def test_training_leaves_the_shared_weights_alone(digits: models.Encoder, name: str, same_bits):
    before = {k: v.clone() for k, v in digits.backbone.state_dict().items()}
    network = classifier(digits.fork().backbone, ARMS[name], 10, MeftConfig(), 0)
    task = tasks.digits_task("b")
    for _ in training.losses(network, digits, task, training.Plan(3, 8, 1e-2), 0):
        pass
    assert same_bits(before, dict(digits.backbone.state_dict()))


@pytest.mark.slow
def test_plain_and_reversible_training_have_one_curve(digits: models.Encoder):
    task, curves = tasks.digits_task("b"), []
    for name in ("meft-plain", "meft"):
        network = classifier(digits.fork().backbone, ARMS[name], 10, MeftConfig(), 0)
        curves.append(list(training.losses(network, digits, task, training.Plan(6, 8), 0)))
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


def test_adapters_that_were_exported_give_the_same_answers(tmp_path: Path, digits):
    task = tasks.digits_task("b")
    config = MeftConfig(2, rank=3)
    network = classifier(digits.fork().backbone, ARMS["meft"], 10, config, 0)
    for _ in training.losses(network, digits, task, training.Plan(3, 8, 1e-2), 0):
        pass
    weights, told = adapter_file.write(network, "meft-digits", config, task.classes)
    for file, data in ((weights.name, weights.data), (told.name, told.text.encode())):
        (tmp_path / file).write_bytes(data)
    kept = adapter_file.read(tmp_path)
    assert kept.classes == task.classes
    again = adapter_file.restored(digits, kept)
    batch = task.test.batch(digits, range(16))
    with torch.no_grad():
        assert torch.equal(network(batch), again(batch))


# PEFT still asks transformers for names that it calls outdated.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_lora_is_read_back_by_peft(tmp_path: Path, kind: str):
    from peft import PeftModel

    tiny(kind).save_pretrained(tmp_path / "base")
    network = classifier(Backbone(tiny(kind)), ARMS["lora"], 2, MeftConfig(rank=3), 0).eval()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # which starts at zero
            torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "adapter").mkdir()
    for file in lora_file.write(network, str(tmp_path / "base"), 3):
        (tmp_path / "adapter" / file.name).write_bytes(file.data)
    base = AutoModel.from_pretrained(tmp_path / "base", attn_implementation="eager")
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    batch = Batch(torch.arange(2, 18).reshape(2, 8), torch.ones(2, 8, dtype=torch.long))
    with torch.no_grad():
        ours = network.hidden(batch)
        theirs = again(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
        plain = tiny(kind)(input_ids=batch.tokens, attention_mask=batch.mask).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert float((ours - plain).abs().max()) > 1e-3


def test_adapters_of_another_model_are_refused(digits):
    network = classifier(Backbone(tiny("bert")), ARMS["meft"], 2, MeftConfig(), 0)
    weights, told = adapter_file.write(network, "tiny", MeftConfig(), ("a", "b"))
    kept = adapter_file.of(json.loads(told.text), weights.read())
    with pytest.raises(ModelMismatch, match="made for tiny"):
        adapter_file.restored(digits, kept)


@pytest.mark.parametrize(
    "changed",
    [{"method": "lora"}, {"classes": []}, {"rank": 10**9}, {"variant": 7}, {"lam": "x"}],
)
def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path, digits, changed):
    network = classifier(digits.fork().backbone, ARMS["meft"], 10, MeftConfig(), 0)
    weights, told = adapter_file.write(network, "meft-digits", MeftConfig(), tuple("0123456789"))
    (tmp_path / weights.name).write_bytes(weights.data)
    (tmp_path / told.name).write_text(json.dumps(json.loads(told.text) | changed))
    with pytest.raises(BadInput):
        adapter_file.read(tmp_path)


# ---------------------------------------------------------------------- will it fit


@pytest.mark.slow
def test_the_published_figures_come_out_at_real_scale():
    """Two streams of 48 MiB for reversible MEFT on BERT-base, batch 32, 512 tokens."""
    costs = {
        name: finish(
            fit.arm_cost(fit.config_of(fit.SCALES["bert-base"]), name, MeftConfig(), 32, 512, told)
        )
        for name in ("meft-pure", "lora-checkpoint")
    }
    assert all(cost.is_computed for cost in costs.values())
    streams = 2 * 32 * 512 * 768 * 4
    assert streams <= costs["meft-pure"].kept_bytes < streams + 2**20
    assert costs["meft-pure"].kept_bytes < costs["lora-checkpoint"].kept_bytes / 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_bytes_on_shapes_are_those_of_a_real_step(kind: str):
    from engine.reversible.memory import measure as counted

    model, batch = tiny(kind), Batch(torch.full((4, 8), 3), torch.ones(4, 8, dtype=torch.long))
    network = classifier(Backbone(model), ARMS["meft"], 2, MeftConfig(), 0).train()
    labels = torch.zeros(4, dtype=torch.long)
    real = counted(
        lambda: torch.nn.functional.cross_entropy(network(batch), labels),
        network,
        [batch.tokens, batch.mask, labels],
    )
    computed = finish(fit.arm_cost(model.config, "meft", MeftConfig(), 4, 8, told))
    assert computed.kept_bytes == real.kept_bytes
    assert computed.flops == real.flops


# ---------------------------------------------------------------------- tables of texts


def test_a_table_is_split_without_leaving_a_row_out():
    rows = "text,label\n" + "".join(f'"a {i}, b",{"yes" if i % 2 else "no"}\n' for i in range(20))
    task = tasks.from_csv(rows, 0)
    assert task.classes == ("no", "yes")
    texts = {*task.train.inputs, *task.test.inputs}
    assert len(texts) == 20
    assert len(task.test) == 5


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("a,b\n" * 3, "3 rows"),
        ("a,yes\n" * 10, "different labels"),
        ("a,b,c\n" * 10, "Row 1 is not"),
        ("a,\n" * 10, "Row 1 is not"),
        (f"{'x' * 500},b\n" * 10, "too long"),
        ("a,b\n" * 3000, "3000 rows"),
    ],
)
def test_a_bad_table_is_told_by_its_row(table: str, match: str):
    with pytest.raises(BadInput, match=match):
        tasks.from_csv(table, 0)


def test_captions_never_name_the_kind_they_are_asked_for():
    task = tasks.captions_task(40, 20, 0)
    for text in (*task.train.inputs, *task.test.inputs):
        assert not set(text.split()) & set(task.classes), text


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_the_job_shows_start_errors_and_bars(run_job):
    seen = run_job(Job(f"{TARGET}:run", {"depth": 3, "arms": ["meft", "lora"]}, seed=0))
    assert isinstance(seen[-1], Done)
    shown = seen[-1].result
    assert len(shown.starts) == len(measure.LAMBDAS)
    assert len(shown.errors) == shown.layers == 6
    assert [cost.arm for cost in shown.costs] == ["meft", "lora"]
    assert shown.original_accuracy > 0.85


@pytest.mark.slow
def test_the_error_of_walking_back_climbs_as_lambda_falls_and_anchors_hold_it(run_job):
    shown = run_job(Job(f"{TARGET}:run", {"depth": 1, "arms": ["head"]}, seed=0))[-1].result
    lowest = {start.lam: start.inverse[0] for start in shown.starts}
    assert lowest[1.0] < 1e-5 < 1e-3 < lowest[0.1] < lowest[0.01]
    # The upper layer is one step back: each of the next ones costs about another factor of 1/lam.
    tenth = next(start for start in shown.starts if start.lam == 0.1)
    factors = [a / b for a, b in itertools.pairwise(tenth.inverse[:5])]
    assert all(3 < factor < 40 for factor in factors)
    assert max(tenth.anchored) < 0.1 * tenth.inverse[0]


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "tokens"), [("bert-base", 512), ("roberta-large", 512)])
def test_the_longest_text_of_a_model_is_counted(run_job, scale: str, tokens: int):
    params = {"scale": scale, "tokens": tokens, "batch": 1, "arms": ["head"]}
    shown = run_job(Job(f"{TARGET}:fits", params, seed=0))[-1].result
    assert shown.costs[0].is_computed


@pytest.mark.slow
def test_a_small_scale_without_anchors_is_warned_of(run_job):
    params = {"lam": 0.02, "anchors": "none", "arms": ["head"], "depth": 1}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    assert any("without anchors" in note for note in shown.notes)


@pytest.mark.slow
def test_fine_tuning_reads_its_adapters_back(run_job):
    params = {"steps": 2, "batch": 4, "arms": ["meft"]}
    tuned = run_job(Job(f"{TARGET}:train", params, seed=0))[-1].result
    assert tuned.read_back == 0.0
    assert len(tuned.curves[0].losses) == 2
    assert tuned.adapter is not None


@pytest.mark.parametrize(
    ("action", "params", "match"),
    [
        ("run", {"variant": 4}, "variant"),
        ("run", {"lam": float("nan")}, "lam"),
        ("run", {"lam": -1.0}, "lam"),
        ("run", {"anchors": "sometimes"}, "anchors"),
        ("run", {"arms": []}, "1 to 6 values"),
        ("run", {"arms": ["meft", "meft"]}, "each once"),
        ("run", {"arms": ["galore"]}, "galore"),
        ("run", {"texts": "a; " + "x" * 500}, "500 characters"),
        ("run", {"depth": 10**9}, "depth"),
        ("run", {"model": "../../nowhere/at-all"}, "no such model"),
        ("fits", {"scale": "gpt-9"}, "gpt-9"),
        ("fits", {"tokens": 513}, "tokens"),
        ("fits", {"scale": "roberta-large", "tokens": 513}, "tokens"),
        ("train", {"steps": 0}, "steps"),
        ("train", {"table": "a,b"}, "1 rows"),
        ("predict", {"adapters": ""}, "0 characters"),
        ("predict", {"adapters": "/proc"}, "has no"),
        ("run", {"reversible_layers": 7}, "6 layers"),
    ],
)
def test_bad_settings_end_in_a_sentence(run_job, action: str, params: dict, match: str):
    end = run_job(Job(f"{TARGET}:{action}", params, seed=0), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    import re

    assert re.search(match, end.message), end.message


def test_a_decoder_bert_and_unknown_models_are_refused():
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(BadInput, match="decodes"):
        Backbone(BertModel(BertConfig(**small, is_decoder=True, intermediate_size=16)))
    with pytest.raises(ModelMismatch, match="ViTModel"):
        Backbone(ViTModel(ViTConfig(**small, intermediate_size=16)))


@pytest.mark.parametrize("config", [{"lam": 0.0}, {"beta": 0.0}, {"rank": 0}])
def test_configurations_that_cannot_come_back_are_refused(config: dict):
    with pytest.raises(BadInput):
        MeftConfig(**config)


def test_an_empty_batch_is_refused():
    network = Backbone(tiny("bert"))
    encoder = MeftEncoder(network.layers, 16, MeftConfig())
    with pytest.raises(BadInput, match="empty"):
        encoder(torch.zeros(0, 4, 16), torch.zeros(0, 1, 1, 4))


# ---------------------------------------------------------------------- models that are brought


def brought(folder: Path, kind: str = "bert") -> Path:
    """A folder as `save_pretrained` writes it, with a tokenizer of a few words."""
    from transformers import BertTokenizer

    tiny(kind).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_a_folder_of_ones_own_is_fine_tuned_on_ones_own_table(tmp_path: Path, run_job):
    table = "".join(
        f"{'a cat' if i % 2 else 'a dog'} {'a ' * (i % 5)},{i % 2}\n" for i in range(24)
    )
    params = {
        "model": str(brought(tmp_path)), "table": table, "arms": ["meft"], "steps": 2, "batch": 4,
        "texts": "a cat; a dog",
    }  # fmt: skip
    tuned = run_job(Job(f"{TARGET}:train", params, seed=0))[-1].result
    assert tuned.classes == ("0", "1")
    assert [found.text for found in tuned.predictions] == ["a cat", "a dog"]
    assert str(tmp_path) not in tuned.adapter_config.text, "A folder's place stays on its machine."


def test_a_model_that_changed_on_disk_is_read_again(tmp_path: Path):
    folder = brought(tmp_path)
    first = models.open_encoder(str(folder)).backbone.body.embeddings.word_embeddings.weight.clone()
    changed = tiny("bert")
    with torch.no_grad():
        changed.embeddings.word_embeddings.weight += 1
    changed.save_pretrained(folder)
    second = models.open_encoder(str(folder)).backbone.body.embeddings.word_embeddings.weight
    assert torch.allclose(second, first + 1)


def test_a_model_of_another_kind_is_refused(tmp_path: Path):
    folder = brought(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(BadInput, match="t5"):
        models.open_encoder(str(folder))
