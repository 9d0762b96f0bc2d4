# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Ranking of candidates: their scores, what becomes of those that have none, and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, RandGaussianNoised

from cakes_monai.architecture import Architecture, Cell, Topology
from cakes_monai.nets import C2FNAS, C2FNASOperationSupernet
from cakes_monai.search import Journal, Proposal, draw_candidates, read_journal
from cakes_monai.search.journal_lock import JournalLock
from cakes_monai.search.trial import digest
from cakes_monai.workflows import OperationRanking
from cakes_monai.workflows.candidate_chunk import MAX_STARTS, chunk_folder, ended_candidates, score_candidates
from cakes_monai.workflows.candidate_evaluation import CandidateEvaluation, write_images, write_weights

LEVELS = (0, 0)
INFERER = {"roi_size": [8, 8, 8], "overlap": 0.25, "sw_batch_size": 4, "mode": "gaussian"}


def supernet(norm: Any = ("INSTANCE", {"affine": True})) -> C2FNASOperationSupernet:
    """Two cells at one level, with four choices each: 16 candidates."""
    torch.manual_seed(0)
    return C2FNASOperationSupernet(1, 3, LEVELS, init_filters=2, norm=norm)


def volumes() -> list[dict[str, torch.Tensor]]:
    """Two volumes larger than the window; the second has no class 2."""
    generator = torch.Generator().manual_seed(1)
    labels = [torch.randint(0, classes, (1, 9, 10, 8), generator=generator) for classes in (3, 2)]
    return [
        {"image": label + torch.randn(label.shape, generator=generator), "label": label.float()} for label in labels
    ]


def loader() -> DataLoader:
    """Noisy training images in batches of two."""
    items = [{"image": torch.full((1, 8, 8, 8), float(number))} for number in range(8)]
    return DataLoader(Dataset(items, Compose([RandGaussianNoised("image", 1.0)])), batch_size=2, shuffle=True)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """An architecture with the topology."""
    path = tmp_path / "parent.json"
    Architecture(Topology(LEVELS), (Cell("3d"),) * 2, {"stage": "topology", "seed": 5}).save(path)
    return path


def ranking(network: Any, output_dir: Path, parent: Path, **options: Any) -> OperationRanking:
    """A ranking of all 16 candidates, in float32."""
    settings = {"inferer": INFERER, "class_names": ["head", "tail"], "amp": False, "seed": 1, "data": "d" * 12}
    engine = {"slots": 1, "engine_options": {"threads_per_trial": 1, "max_retries": 0}}
    return OperationRanking(network, output_dir, parent, volumes(), loader(), **(settings | engine | options))


@pytest.mark.parametrize("path", [("cakes", "p3d"), ("2d", "3d")], ids="-".join)
def test_the_score_is_that_of_the_network_alone(path: tuple[str, ...], tmp_path: Path) -> None:
    """MONAI's evaluator with the C2FNAS network of the candidate and its weights has the same Dice."""
    network = supernet()
    write_weights(tmp_path, network.state_dict())
    write_images(tmp_path, volumes(), [], 0, 0)
    score, dice = CandidateEvaluation(tmp_path, network.settings, INFERER, amp=False, device="cpu")(path)
    alone = C2FNAS(1, 3, network.derived(path), 2)
    alone.load_state_dict(network.state_of(path))
    pair = from_engine(["pred", "label"])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(volumes())),
        network=alone,
        inferer=SlidingWindowInferer(**INFERER),
        postprocessing=AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=3),
        key_val_metric={"mean": MeanDice(include_background=False, output_transform=pair)},
        additional_metrics={
            "each": MeanDice(
                include_background=False, reduction="mean_batch", return_with_label=["1", "2"], output_transform=pair
            )
        },
    )
    evaluator.run()
    metrics = evaluator.state.metrics
    assert score == pytest.approx(metrics["mean"], abs=1e-6)
    assert 0 < score < 1
    assert dice == pytest.approx([metrics["1"], metrics["2"]], abs=5.1e-5)  # MONAI rounds to four digits


def test_statistics_are_collected_for_each_candidate(tmp_path: Path) -> None:
    """With BatchNorm they are the mean over the batches, whatever was evaluated before and whatever the momentum."""
    network = supernet(("BATCH", {"momentum": 0.3}))
    write_weights(tmp_path, network.state_dict())
    write_images(tmp_path, volumes(), loader(), 3, 0)
    evaluate = CandidateEvaluation(tmp_path, network.settings, INFERER, amp=False, device="cpu")
    first = evaluate(("2d", "2d"))
    stem = evaluate.network.stem[0]
    batches = torch.load(tmp_path / "batches.pt", weights_only=True)
    means = torch.stack([stem.conv(batch).mean((0, 2, 3, 4)) for batch in batches])
    torch.testing.assert_close(stem.adn.N.running_mean, means.mean(0))
    unused = evaluate.network.cells[0].operations[0].choices["3d"].adn.N
    assert not unused.running_mean.any()
    evaluate(("3d", "cakes"))
    assert evaluate(("2d", "2d")) == first
    assert not evaluate.network.training


def test_images_are_the_same_whenever_they_are_written(tmp_path: Path) -> None:
    """Batches are a function of the seed; volumes of an earlier call are gone; labels are small numbers."""
    for folder, count, seed in (("a", 2, 0), ("b", 2, 0), ("c", 2, 1)):
        torch.rand(1)
        write_images(tmp_path / folder, volumes(), loader(), count, seed)
    a, b, c = (torch.load(tmp_path / name / "batches.pt", weights_only=True) for name in "abc")
    assert [len(batch) for batch in a] == [2, 2]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    write_images(tmp_path / "a", volumes()[:1], [], 0, 0)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["volume_00000.pt"]
    assert torch.load(tmp_path / "a" / "volume_00000.pt", weights_only=True)["label"].dtype == torch.uint8


@pytest.fixture
def evaluation(tmp_path: Path) -> dict[str, Any]:
    """Arguments of an evaluation in which 3D in cell 1 has weights that are not numbers."""
    network = supernet()
    with torch.no_grad():
        next(network.cells[1].operations[0].choices["3d"].parameters()).fill_(float("nan"))
    write_weights(tmp_path, network.state_dict())
    write_images(tmp_path, volumes(), [], 0, 0)
    return {"folder": str(tmp_path), "network": network.settings, "inferer": INFERER, "amp": False}


def events(folder: Path) -> list[str]:
    """What a journal says happened, in order."""
    lines = (folder / "journal.jsonl").read_text().splitlines()[1:]
    return [f"{record['event']} {record['index']}" for record in map(json.loads, lines)]


def test_a_chunk_is_run_again_where_it_was(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    """A candidate that is not finite has failed at once; what has ended is not evaluated again."""
    folder, candidates = tmp_path / "chunk_0", [["2d", "3d"], ["2d", "2d"], ["cakes", "p3d"]]
    assert score_candidates(folder, evaluation, {}, candidates) == {"finished": 2}
    every = [f"{event} {index}" for index in range(3) for event in ("proposed", "started", "finished")]
    assert events(folder) == ["failed 0" if event == "finished 0" else event for event in every]
    assert read_journal(folder / "journal.jsonl").trials[0].failures == (
        "the output for validation volume 0 is not finite.",
    )
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote the last score
    assert score_candidates(folder, evaluation, {}, candidates) == {"finished": 2}
    assert events(folder)[-3:] == ["started 2", "started 2", "finished 2"]
    ended = ended_candidates(tmp_path)
    assert [ended[tuple(candidate)].state for candidate in candidates] == ["failed", "finished", "finished"]


def test_what_cannot_be_evaluated_fails_in_the_end(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    """An exception ends the process, the third one the candidate; one whose process died three times has failed too."""
    folder, candidates = tmp_path / "chunk_0", [["2d", "4d"], ["2d", "2d"], ["3d", "2d"]]
    for _ in range(MAX_STARTS):
        with pytest.raises(ValueError, match="'4d'"):
            score_candidates(folder, evaluation, {}, candidates)
    with Journal(folder / "journal.jsonl", "operations", {"search": {}, "candidates": digest(candidates)}) as journal:
        journal.proposed(Proposal(1, ("2d", "2d"), "drawn"))
        for _ in range(MAX_STARTS):
            journal.started(1)
    assert score_candidates(folder, evaluation, {}, candidates) == {"finished": 1}
    failures = [trial.failures[-1:] for trial in read_journal(folder / "journal.jsonl").trials]
    assert "operations are ['2d', '4d']" in failures[0][0] or "('2d', '4d')" in failures[0][0]
    assert failures[1:] == [("its process died, 3 times",), ()]


@pytest.fixture
def ranked(tmp_path: Path, parent: Path, evaluation: dict[str, Any]) -> OperationRanking:
    """A ranking of which every candidate has been evaluated; 3D in cell 1 fails."""
    network = supernet()
    network.load_state_dict(torch.load(tmp_path / "supernet.pt", weights_only=True))
    made = ranking(network, tmp_path / "out", parent)
    search = json.loads(json.dumps(made.search))
    half = len(made.candidates) // 2
    for chunk in (made.candidates[:half], made.candidates[half:]):
        score_candidates(chunk_folder(made.folder, chunk), evaluation, search, chunk)
    return made


def test_what_a_ranking_leaves(ranked: OperationRanking, tmp_path: Path) -> None:
    """The best as architecture.json with its origin; all candidates by score, failed ones last."""
    found = ranked.run()
    assert Architecture.load(tmp_path / "out" / "architecture.json") == found
    assert found.origin["topology"] == {"stage": "topology", "seed": 5}
    assert {key: found.origin[key] for key in ("stage", "seed", "candidates", "failed", "data")} == {
        "stage": "operations",
        "seed": 1,
        "candidates": 16,
        "failed": 4,
        "data": "d" * 12,
    }
    table = json.loads((tmp_path / "out" / "candidates.json").read_text())
    rows = table["candidates"]
    assert [row["rank"] for row in rows] == [*range(1, 13), *[None] * 4]
    scores = [row["score"] for row in rows[:12]]
    assert scores == sorted(scores, reverse=True)
    assert found.origin["score"] == scores[0]
    assert [cell.operation for cell in found.cells] == rows[0]["operations"]
    assert all(row["operations"][1] == "3d" and "not finite" in row["failure"] for row in rows[12:])
    assert [tuple(row["operations"]) for row in sorted(rows, key=lambda row: row["index"])] == list(ranked.candidates)
    alone = C2FNAS(1, 3, found, table["init_filters"])
    assert rows[0]["params"] == sum(parameter.numel() for parameter in alone.parameters())
    with (tmp_path / "out" / "candidates.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["score"]) for line in lines[:12]] == scores
    assert lines[0]["head"] == str(rows[0]["dice"]["head"])
    assert lines[0]["operations"].split() == rows[0]["operations"]
    for picture in ("candidates.png", "architecture.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000


def test_what_has_a_score_is_not_evaluated_again(ranked: OperationRanking, tmp_path: Path, parent: Path) -> None:
    """Run again with everything evaluated it writes the same to the last bit, and fewer candidates need nothing new."""
    ranked.run()
    expected = (tmp_path / "out" / "architecture.json").read_bytes()
    journals = [path.read_bytes() for path in sorted(ranked.folder.glob("chunk_*/journal.jsonl"))]
    again = ranking(ranked.network, tmp_path / "out", parent, resume="true", engine_options={"num_gpus": 99})
    again.run()  # an engine that cannot be made is not needed
    assert (tmp_path / "out" / "architecture.json").read_bytes() == expected
    fewer = ranking(ranked.network, tmp_path / "out", parent, resume=True, candidates=5)
    assert fewer.run().origin["candidates"] == 5  # the scores are there, whoever drew them
    assert [path.read_bytes() for path in sorted(ranked.folder.glob("chunk_*/journal.jsonl"))] == journals
    assert not list(ranked.folder.glob("volume_*"))


def test_scores_of_other_weights_are_not_mixed(ranked: OperationRanking, tmp_path: Path, parent: Path) -> None:
    """Nor are they overwritten without --resume; the error says what to do."""
    with pytest.raises(ValueError, match="ranking: has scores of an earlier run; use --resume True, or delete it"):
        ranking(ranked.network, tmp_path / "out", parent).check()
    other = ranking(supernet(), tmp_path / "out", parent, resume=True)
    other.check()
    with pytest.raises(ValueError, match=r"another search \(search.weights is .* delete it to start anew"):
        other.run()
    lock = JournalLock(ranked.folder / "driver")
    with pytest.raises(ValueError, match="another driver is running"):
        ranked.run()
    lock.release()


def test_a_systematic_error_ends_the_ranking(tmp_path: Path, parent: Path) -> None:
    """The first chunk's error is reported, with its log, and does not stay when the cause is gone."""
    broken = ranking(supernet(), tmp_path / "out", parent, inferer=INFERER | {"mode": "cubic"}, candidates=4)
    with pytest.raises(ValueError, match=r"no candidate could be evaluated: .*cubic.*; see .*log.txt"):
        broken.run()
    assert not (tmp_path / "out" / "architecture.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "count is 0, allowed is 1 or more"),
        ({"chunk_size": 0}, "chunk_size is 0, allowed is 1 or more"),
        ({"norm_batches": 0}, "norm_batches is 0, allowed is 1 or more"),
        ({"inferer": INFERER | {"overlap": 1.0}}, "overlap is 1.0, allowed is from 0 to below 1"),
        ({"class_names": ["head"]}, "1 class names, the network has 2 classes"),
        ({"engine": "dask"}, "unknown engine 'dask', allowed are processes, ray"),
        ({"engine_options": {"gpu": 1}}, "engine 'processes' has no option 'gpu'"),
        ({"network": C2FNAS(1, 2, Architecture.published("c2fnas-2d"), 2)}, "not with a C2FNAS"),
        ({"output_dir": "."}, "gives the topology and would be overwritten"),
        (
            {"network": C2FNASOperationSupernet(1, 3, [0], init_filters=2)},
            r"has levels \[0, 0\], the super-network has",
        ),
    ],
)
def test_wrong_settings(
    options: dict[str, Any], message: str, tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each, before anything is computed."""
    monkeypatch.chdir(tmp_path)
    parent.rename("architecture.json")
    network = options.pop("network", None) or supernet()
    with pytest.raises(ValueError, match=message):
        ranking(network, Path(options.pop("output_dir", "out")), Path("architecture.json"), **options).check()


def test_candidates_are_those_of_the_draw(tmp_path: Path, parent: Path) -> None:
    """As many as asked for, of all operations, as a function of the seed."""
    made = ranking(supernet(), tmp_path, parent, candidates=7, seed=3)
    assert made.candidates == draw_candidates(3, 7, 2, ("2d", "3d", "p3d", "cakes"))
