"""The benchmarks of the methods that learn run through on any checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.core.catalog import Measured
from engine.core.job import Job
from engine.erasing._evaluation import Protocol
from engine.erasing.few_shot_erasing import bench as few_shot
from engine.erasing.reversion import bench as reversion
from engine.erasing.reversion.settings import ReversionSettings
from engine.erasing.spm import bench as spm
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.mark.slow
def test_the_bench_of_few_shot_erasing_runs_through(folder: str, run_job, monkeypatch, tmp_path):
    monkeypatch.setattr(few_shot, "STEPS", 2)
    monkeypatch.setattr(few_shot, "STUDY_EACH", 1)
    monkeypatch.setattr(few_shot, "STUDY_EPOCHS", 1)
    monkeypatch.setattr(few_shot, "STUDY_POINTS", 1)
    monkeypatch.setattr(few_shot, "COMPARED", ("descent", "UCE"))
    params = {"model": folder, "concepts": ("cat", "dog"), "each": 2, "times": 2}
    found = run_job(Job("engine.erasing.few_shot_erasing.bench:run", params, 0))[-1].result
    assert set(found.figures["equal bits after undo"].values()) == {1.0}
    assert set(found.figures["study on cat"]) == {"mlp-final-attn", "descent", "UCE"}
    assert [len(runs) for runs in found.figures["by concept"].values()] == [2, 2]
    assert found.figures["kept after"]["of"] == 16
    assert found.measured == found.figures["points taken off"]["prompts with the word"]["value"]
    assert found.versus == found.figures["points taken off"]["other prompts"]["value"]
    assert found.interval[0] <= found.measured <= found.interval[1]
    assert saved(found, tmp_path) == found


@pytest.mark.slow
def test_the_bench_of_reversion_runs_through(folder: str, run_job, monkeypatch, tmp_path):
    monkeypatch.setattr(reversion, "SAMPLER_STEPS", 2)
    monkeypatch.setattr(reversion, "SEEDS", 2)
    settings = ReversionSettings(count=2, steps=2, batch=2, positives=2)
    params = {"model": folder, "settings": settings, "relations": ("inside",), "count": 2}
    found = run_job(Job("engine.erasing.reversion.bench:run", params, 0))[-1].result
    assert set(found.figures["equal bits after undo"].values()) == {1.0}
    assert found.figures["unit"].startswith("2 learnings")
    (parts,) = (value for key, value in found.figures.items() if key.startswith("parts"))
    assert [len(runs) for runs in parts.values()] == [2, 2, 2, 2]
    assert found.interval[0] <= found.measured <= found.interval[1]
    assert saved(found, tmp_path) == found


@pytest.mark.slow
def test_the_bench_of_spm_runs_through(folder: str, run_job, monkeypatch, tmp_path):
    for name in ("ANCHORED", "LOOSE"):
        monkeypatch.setattr(spm, name, replace(getattr(spm, name), iterations=2))
    monkeypatch.setattr(spm, "PROTOCOL", Protocol(each=1, steps=2))
    monkeypatch.setattr(spm, "SEEDS", 2)
    monkeypatch.setattr(spm, "ANCHORING_EACH", 1)
    params = {"model": folder, "to": folder, "concepts": ("cat", "car")}
    found = run_job(Job("engine.erasing.spm.bench:run", params, 0))[-1].result
    assert set(found.figures["equal bits after undo"].values()) == {1.0}
    assert set(found.figures["together"]) == {"trained on", "never seen"}
    assert len(found.figures["anchoring, cat"]["anchored, open"]) == 2
    assert found.versions["torch"] == torch.__version__
    assert saved(found, tmp_path) == found


def test_the_recorded_claim_of_spm_is_the_papers():
    """Several membranes at once, on a model they never saw, with little erosion."""
    found = Measured.load("spm")
    gates = found.figures["together"]["never seen"]
    before, after = gates["original"], gates["published gate"]
    assert found.measured == after["target"]["rate"] <= before["target"]["rate"] - 0.8
    assert after["kept"]["rate"] >= 0.9 * before["kept"]["rate"]
    assert after["target"]["of"] >= 100


def saved(found: Measured, folder: Path) -> Measured:
    """The figures as they are read back from the file that a benchmark writes."""
    found.save("some", folder)
    return Measured.load("some", folder)
