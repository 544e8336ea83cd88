"""One load for all, edits that nobody else sees, a bounded cache, checksums, and no network."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.core.cache import LruCache
from engine.core.errors import AssetMissing, BadInput, ModelMismatch, OutOfBudget, PatchConflict
from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.store import default_store
from engine.models import devices, library
from engine.models.library import MODELS, ModelCard, ModelRef, edited, fork, load
from engine.models.words import Vocabulary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store():
    default_store.cache_clear()
    yield default_store()
    default_store.cache_clear()


@pytest.fixture
def asset(tiny, tmp_path, monkeypatch) -> Path:
    """A shipped model called "toy" with a card."""
    folder = tmp_path / "assets" / "toy"
    shutil.copytree(tiny["sd1"], folder)
    write_card(folder)
    monkeypatch.setattr(library, "ASSETS", folder.parent)
    monkeypatch.setattr(library, "MODELS", library.read_cards(folder.parent))
    return folder


def write_card(folder: Path, **changes) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "card.json"]
    sums = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    card = {
        "key": folder.name,
        "title": "Toy",
        "kind": "diffusion",
        "licence": "Apache-2.0",
        "source": "made here",
        "sha256": sums,
        "psnr": 30.1,
    }
    (folder / "card.json").write_text(json.dumps(card | changes))


def patch_for(bundle, seed: int, names=("unet.conv_in.weight",)) -> Patch:
    old = bundle.model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    new = dict(old)
    for name in names:
        new[name] = old[name] + torch.randn(old[name].shape, generator=generator)
    return Patch.between(old, new, Recipe("toy", seed=seed, label=f"edit {seed}"))


# ---------------------------------------------------------------------- light import


def test_the_library_imports_without_torch():
    code = (
        "import sys, engine.models.library, engine.runners\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# ---------------------------------------------------------------------- cards


@pytest.mark.slow
def test_a_folder_with_a_card_is_a_model(asset):
    card = library.MODELS["toy"]
    assert (card.title, card.kind, card.notes) == ("Toy", "diffusion", {"psnr": 30.1})
    assert load(ModelRef("toy")).ref == ModelRef("toy", card.revision)


def test_an_unreadable_card_is_logged_and_the_others_stay(asset, caplog):
    broken = asset.parent / "broken"
    broken.mkdir()
    (broken / "card.json").write_text('{"key": "broken"}')
    assert list(library.read_cards(asset.parent)) == ["toy"]
    assert "broken" in caplog.text


def test_shipped_cards_are_whole():
    for card in MODELS.values():
        assert card.kind
        assert card.licence
        library.verify(card, library.ASSETS / card.key)


def test_a_changed_file_of_a_shipped_model_is_named(asset):
    config = asset / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(AssetMissing, match=r"unet/config\.json") as caught:
        load(ModelRef("toy"))
    assert "engine.zoo build toy" in caught.value.advice


def test_a_missing_file_of_a_shipped_model_is_named(asset):
    (asset / "vae" / "config.json").unlink()
    with pytest.raises(AssetMissing, match=r"lacks the file vae/config\.json"):
        load(ModelRef("toy"))


def test_a_card_cannot_name_a_file_outside_its_folder(asset):
    write_card(asset, sha256={"../../secret": "0" * 64})
    card = ModelCard.read(asset / "card.json")
    with pytest.raises(BadInput, match="outside"):
        library.verify(card, asset)


def test_another_revision_of_a_shipped_model_is_refused(asset):
    with pytest.raises(ModelMismatch, match="revision abc"):
        load(ModelRef("toy", "abc"))


def test_a_kind_without_loader_is_named(asset):
    write_card(asset, kind="smell")
    card = ModelCard.read(asset / "card.json")
    with pytest.raises(ModelMismatch, match="smell model"):
        library._read(card, asset, ModelRef("toy"), "cpu", "float32")


def test_a_part_of_a_checkpoint_is_told_from_the_whole(tiny):
    with pytest.raises(ModelMismatch, match="unet is one part") as refused:
        load(ModelRef(str(tiny["sd1"] / "unet")))
    assert "folder above" in refused.value.advice


def test_a_damaged_file_is_named_with_its_part(tiny, tmp_path):
    """All parts of a checkpoint but the text encoder call their weights alike."""
    folder = shutil.copytree(tiny["sd1"], tmp_path / "cut")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match="vae/diffusion_pytorch_model"):
        load(ModelRef(str(folder)))


def test_unknown_words_of_a_prompt_make_a_sentence(asset):
    assert library.prompt_note("toy", "a neon cat") == ""
    assert library.prompt_note("toy", "a zebra") == (
        '"zebra" was not in the training: expect anything in that place.'
    )
    note = library.prompt_note("toy", "a kitten and a <b>")
    assert note.startswith('"kitten", "b" were')
    assert note.endswith('Try "cat" for "kitten".')
    assert library.prompt_note("owner/model", "a zebra") == ""


def test_an_unknown_word_is_told_with_the_known_one_that_comes_closest():
    known = Vocabulary(
        frozenset({"cat", "horse", "box"}), {}, {"zebra": "horse", "wing": "feather"}
    )
    assert known.nearest("two cats, boxes and zebras on a wing") == {
        "cats": "cat", "boxes": "box", "zebras": "horse",
    }  # fmt: skip
    assert known.note("a zebra").endswith('Try "horse" for "zebra".')
    assert known.nearest("a bus") == {}


# ---------------------------------------------------------------------- one load


@pytest.mark.slow
def test_sixteen_requests_at_once_load_once(tiny, monkeypatch):
    from engine.models import diffusion

    reads, real = [], diffusion.read

    def slow(*arguments):
        reads.append(arguments)
        time.sleep(0.1)
        return real(*arguments)

    monkeypatch.setattr(diffusion, "read", slow)
    barrier = threading.Barrier(16)
    loaded: list = []

    def visit():
        barrier.wait()
        loaded.append(load(ModelRef(str(tiny["sd1"]))))

    in_threads(visit, 16)
    assert len(reads) == 1
    assert len(loaded) == 16
    assert all(bundle is loaded[0] for bundle in loaded)


def in_threads(visit, count: int) -> None:
    threads = [threading.Thread(target=visit) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_failed_load_reaches_all_who_wait_and_is_tried_again():
    cache: LruCache[str] = LruCache()
    started, release = threading.Event(), threading.Event()
    errors: list = []

    def broken():
        started.set()
        release.wait()
        raise BadInput("no")

    def visit():
        try:
            cache.get("key", broken)
        except BadInput as error:
            errors.append(error)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.05)
    release.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    assert cache.get("key", lambda: "good") == "good"


@pytest.mark.slow
def test_a_file_that_changes_is_loaded_anew(tiny, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tiny["sd1"], folder)
    first = load(ModelRef(str(folder)))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    assert load(ModelRef(str(folder))).prediction_type == "v_prediction"
    assert first.prediction_type == "epsilon"


# ---------------------------------------------------------------------- bounded cache


def test_the_cache_drops_the_least_recently_used():
    cache, made = LruCache(1e-5), []

    def get(key: str, size: int = 4) -> str:
        return cache.get(key, lambda: made.append(key) or key, size=lambda _: size)

    for key in ("a", "b", "a", "c"):
        get(key)
    assert made == ["a", "b", "c"]
    assert cache.bytes == 8
    get("a")
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]
    get("whale", 50)
    assert len(cache) == 1
    get("a")
    assert cache.bytes == 4


def test_an_edited_model_weighs_what_it_does_not_share(tiny, store):
    base = load(ModelRef(str(tiny["sd1"])))
    before = library.CACHE.bytes
    patch = patch_for(base, 1)
    changed = load(ModelRef(base.ref.source, edits=(store.put(patch),)))
    assert library.CACHE.bytes - before == changed.unet.conv_in.weight.nbytes


# ---------------------------------------------------------------------- edits


def test_a_fork_shares_tensors_but_not_their_state(tiny):
    base = load(ModelRef(str(tiny["sd1"]))).model
    copy = fork(base)
    own = dict(base.named_parameters())
    for name, parameter in copy.named_parameters():
        assert parameter is not own[name]
        assert parameter.data_ptr() == own[name].data_ptr()
    copy.requires_grad_(True)
    copy["unet"].train()
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert not base["unet"].training


class Tied(nn.Module):
    """Two names for one weight, and a buffer that is no state."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.arange(5), persistent=False)


def recipe() -> Recipe:
    return Recipe("toy")


def test_tied_weights_stay_tied_in_forks_and_edits():
    model = Tied()
    copy = fork(model)
    assert copy.head.weight is copy.embed.weight
    new = dict(model.state_dict())
    new["embed.weight"] = new["head.weight"] = model.embed.weight.detach() + 1
    changed = edited(model, [Patch.between(model.state_dict(), new, recipe())])
    assert changed.head.weight is changed.embed.weight
    assert torch.equal(changed.embed.weight, model.embed.weight + 1)
    assert changed.norm.running_mean.data_ptr() == model.norm.running_mean.data_ptr()


def test_a_patch_reaches_buffers_and_new_rows():
    model = Tied()
    old = model.state_dict()
    new = dict(old)
    new["norm.running_mean"] = old["norm.running_mean"] + 2
    new["embed.weight"] = new["head.weight"] = torch.cat([old["embed.weight"], torch.ones(2, 3)])
    changed = edited(model, [Patch.between(old, new, recipe())])
    assert changed.norm.running_mean.tolist() == [2, 2, 2]
    assert changed.embed.num_embeddings == 7
    assert changed.embed(torch.tensor([6])).tolist() == [[1, 1, 1]]
    assert model.embed.num_embeddings == 5


@pytest.mark.slow
def test_a_patch_that_does_not_fit_changes_nothing(tiny, store):
    base = load(ModelRef(str(tiny["sd1"])))
    digest = store.put(patch_for(base, 1))
    other = load(ModelRef(str(tiny["sd2"])))
    with pytest.raises((ModelMismatch, PatchConflict)):
        load(ModelRef(other.ref.source, edits=(digest,)))
    with pytest.raises(PatchConflict, match="applied already"):
        load(ModelRef(base.ref.source, edits=(digest, digest)))


def test_an_edit_that_is_forgotten_is_named(tiny, store):
    with pytest.raises(AssetMissing, match="no longer in the store"):
        load(ModelRef(str(tiny["sd1"]), edits=("0" * 64,)))


@pytest.mark.slow
def test_visitors_with_different_edits_never_see_each_others_weights(tiny, store, monkeypatch):
    """Sixteen threads, eight edits of one base and a cache too small for them all."""
    source = str(tiny["sd1"])
    base = load(ModelRef(source))
    untouched = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    names = ("unet.conv_in.weight", "unet.conv_out.bias", "text_encoder.final_layer_norm.weight")
    digests, expected = [], []
    for seed in range(8):
        patch = patch_for(base, seed, names[: 1 + seed % 3])
        digests.append(store.put(patch))
        expected.append(patch.apply(base.model.state_dict()))
    monkeypatch.setattr(library.CACHE, "limit_bytes", library.CACHE.bytes + 20_000)
    faults: list = []

    def visit():
        dice = random.Random(threading.get_ident())
        for _ in range(6):
            one = dice.randrange(8)
            state = load(ModelRef(source, edits=(digests[one],))).model.state_dict()
            time.sleep(dice.random() / 500)
            faults.extend(n for n in state if not torch.equal(state[n], expected[one][n]))

    in_threads(visit, 16)
    assert not faults
    assert all(torch.equal(t, untouched[n]) for n, t in base.model.state_dict().items())


def test_edits_come_off_in_any_order_when_they_do_not_overlap(tiny, store):
    source = str(tiny["sd1"])
    base = load(ModelRef(source))
    first = store.put(patch_for(base, 1, ("unet.conv_in.weight",)))
    second = store.put(patch_for(base, 2, ("unet.conv_out.weight",)))
    both = load(ModelRef(source, edits=(first, second))).model.state_dict()
    only = load(ModelRef(source, edits=(second,))).model.state_dict()
    assert torch.equal(both["unet.conv_out.weight"], only["unet.conv_out.weight"])
    assert torch.equal(only["unet.conv_in.weight"], base.unet.conv_in.weight)


# ---------------------------------------------------------------------- policy


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_cpu_runs_in_float32_and_an_accelerator_in_float16(monkeypatch, kind):
    monkeypatch.setattr(devices, "accelerator", lambda: "")
    assert library.policy("auto", "auto") == ("cpu", "float32")
    assert library.policy("cpu", "bfloat16") == ("cpu", "bfloat16")
    monkeypatch.setattr(devices, "accelerator", lambda: kind)
    assert library.policy("auto", "auto") == (kind, "float16")
    assert library.policy(f"{kind}:1", "auto") == (f"{kind}:1", "float16")
    assert library.policy("cpu", "auto") == ("cpu", "float32")


def test_the_environment_says_what_auto_means(monkeypatch):
    monkeypatch.setattr(devices, "accelerator", lambda: "cuda")
    monkeypatch.setenv("REWIND_DTYPE", "float32")
    assert library.policy("auto", "auto") == ("cuda", "float32")
    monkeypatch.setenv("REWIND_DEVICE", "cpu")
    assert library.policy("auto", "auto") == ("cpu", "float32")
    assert library.policy("cuda", "float16") == ("cuda", "float16")
    monkeypatch.setenv("REWIND_DEVICE", "abacus")
    with pytest.raises(BadInput, match="device abacus"):
        library.policy("auto", "auto")


def test_unknown_devices_and_formats_are_named(monkeypatch):
    monkeypatch.setattr(devices, "accelerator", lambda: "")
    for kind in ("cuda", "mps", "xpu"):
        with pytest.raises(OutOfBudget, match=f"no {kind.upper()} device"):
            library.policy(kind, "auto")
    for odd in ("abacus", "", ":1", "cpu:x"):
        with pytest.raises(BadInput, match="no device"):
            library.policy(odd, "auto")
    with pytest.raises(BadInput, match="float32, float16"):
        library.policy("cpu", "int8")


NO_ROOM = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError, NO_ROOM])
def test_out_of_memory_comes_with_advice(tiny, monkeypatch, error):
    from engine.models import diffusion

    def full(*_):
        raise error

    monkeypatch.setattr(diffusion, "read", full)
    with pytest.raises(OutOfBudget, match="does not fit into memory") as caught:
        load(ModelRef(str(tiny["sd1"])))
    assert "float16" in caught.value.advice


def test_a_model_larger_than_the_free_memory_is_refused_before_it_is_read(tiny, monkeypatch):
    from engine.models import _layout

    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(_layout, "_fill", lambda *_: pytest.fail("allocated"))
    with pytest.raises(OutOfBudget, match="GB are free"):
        load(ModelRef(str(tiny["sd1"])))


def test_an_edit_keeps_its_base_in_the_cache():
    cache, made = LruCache(1e-5), []

    def get(key: str, size: int, on: str | None = None) -> str:
        def make() -> str:
            if on is not None:
                get(on, 8)
            made.append(key)
            return key

        return cache.get(key, make, size=lambda _: size, on=on)

    get("edit", 1, on="base")
    get("other", 2)  # together 11: the edit goes before the base that it rests on
    assert cache.bytes == 10
    get("edit", 1, on="base")
    assert made == ["base", "edit", "other", "edit"]
    get("large", 9)
    assert cache.bytes == 9


@pytest.mark.slow
def test_a_base_that_fills_the_cache_is_loaded_once_for_all_its_edits(tiny, store, monkeypatch):
    source = str(tiny["sd1"])
    base = load(ModelRef(source))
    digests = [store.put(patch_for(base, seed)) for seed in range(3)]
    library.CACHE.clear()
    monkeypatch.setattr(library.CACHE, "limit_bytes", 1000)
    reads = []
    honest = library._read
    monkeypatch.setattr(library, "_read", lambda *a: reads.append(a) or honest(*a))
    for digest in [*digests, *digests]:
        load(ModelRef(source, edits=(digest,)))
    assert len(reads) == 1
    weight = base.unet.conv_in.weight.nbytes
    assert library.CACHE.bytes == library._bytes(base) + weight
