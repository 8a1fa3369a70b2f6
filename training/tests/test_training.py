"""The parts of training that go wrong silently: geometry, partial labels, resuming."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from leukodiff_training import constants as c
from leukodiff_training import losses, train
from leukodiff_training.augment import StainSwap, photometric, sample_labels, window
from leukodiff_training.composites import beside, on_other_ground
from leukodiff_training.data import Cell, Field, apply_readings
from leukodiff_training.evaluate import between, by_class, class_table
from leukodiff_training.outliers import HELD_OUT, LEARNT, drawn, spoilt
from leukodiff_training.runs import Average, Run, prefetched
from leukodiff_training.statistics import area_under_curve, intersection_over_union, share
from leukodiff_training.train import Draw, Sampler, attribute_labels, cell_parts, example, left_out
from leukodiff_training.train_saliency import peaks, tile


def painted_field() -> Field:
    """Two masked cells on a plain background; the left one of known class."""
    image = np.full((300, 400, 3), 220, np.uint8)
    parts, instances = np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8)
    cells = []
    ys, xs = np.mgrid[0:300, 0:400]
    for number, (x, y, label) in enumerate(((120, 150, "neutrophil"), (220, 150, None)), start=1):
        disc = (xs - x) ** 2 + (ys - y) ** 2 < 40**2
        core = (xs - x) ** 2 + (ys - y) ** 2 < 20**2
        image[disc], image[core] = (180, 150, 200), (90, 40, 130)
        parts[disc], parts[core], instances[disc] = c.CYTOPLASM, c.NUCLEUS, number
        cells.append(Cell(x + 0.5, y + 0.5, label, instance=number))
    return Field("zheng1", "painted", "train", image, cells, parts, instances)


def test_window_keeps_the_centre_in_the_middle_under_turn_and_scale() -> None:
    item = painted_field()
    for angle, scale, mirror in ((0.0, 1.0, False), (1.1, 1.3, True), (2.5, 0.5, False)):
        first = np.where(item.instances == 1, item.parts, c.BACKGROUND)
        _, (parts,), matrix = window(item.image, (120.5, 150.5), 160, scale, angle, mirror, [first], c.UNKNOWN)
        middle = matrix @ np.array([120.0, 150.0, 1.0])
        assert middle == pytest.approx([79.5, 79.5])
        ys, xs = np.nonzero(parts[40:120, 40:120] == c.NUCLEUS)
        assert xs.mean() == pytest.approx(39.5, abs=1.0)
        assert ys.mean() == pytest.approx(39.5, abs=1.0)


def test_a_coarser_label_map_lies_where_the_picture_shows_it() -> None:
    core = (painted_field().parts == c.NUCLEUS).astype(np.uint8)
    rng = np.random.default_rng(3)
    offsets = []
    for _ in range(100):
        centre, turn = 100 + rng.uniform(0, 40, 2) + (0, 30), rng.uniform(0, 6.3)
        shown, _, matrix = window(core * 255, tuple(centre), 160, rng.uniform(0.8, 1.2), turn, bool(rng.integers(2)))
        labels = np.kron(sample_labels(core, matrix, 160, 0, stride=2), np.ones((2, 2)))
        place = np.arange(160)
        offsets.append(
            [(labels.sum(axis=a) @ place / labels.sum()) - (shown.sum(axis=a, dtype=float) @ place / shown.sum()) for a in (0, 1)]
        )
    # One sample off in a stride of two would be 0.5 here.
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05


def test_other_cells_are_background_for_the_central_cell() -> None:
    item = painted_field()
    parts = cell_parts(item, item.cells[0])
    assert parts[150, 120] == c.NUCLEUS
    assert parts[150, 220] == c.BACKGROUND
    item.instances[:] = 0  # a mask whose cells cannot be told apart
    assert cell_parts(item, Cell(120, 150, "blast"))[150, 120] == c.UNKNOWN


def test_an_example_says_only_what_is_known() -> None:
    item = painted_field()
    rng = np.random.default_rng(0)
    named = example(Draw(item, item.cells[0], 120, 150, "neutrophil"), rng)
    unnamed = example(Draw(item, item.cells[1], 220, 150, None), rng)
    assert named["label"] == c.CLASS_INDEX["neutrophil"]
    assert unnamed["label"] == -1
    assert set(np.unique(named["parts"])) <= {0, 1, 2, 255}
    assert named["context"].dtype == np.uint8


def test_sampler_draws_places_without_cells_as_artefacts() -> None:
    item = painted_field()
    draw = Sampler([item], {}).negative(np.random.default_rng(3))
    assert draw.label == "artefact"
    assert all((cell.x - draw.x) ** 2 + (cell.y - draw.y) ** 2 > 40**2 for cell in item.cells)


def test_saliency_tile_peaks_at_the_cell() -> None:
    item = painted_field()
    target = tile(item, 0.0, 64, np.random.default_rng(0), augment=False)
    found = peaks(target["heat"], 0.5, 4)
    assert 1 <= len(found) <= 2
    for x, y, _ in found:
        assert target["saliency"][int(y), int(x)] > 0.5


def test_peaks_keep_their_distance() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[5, 5], heat[5, 7], heat[15, 15] = 0.9, 0.8, 0.7
    assert [(x, y) for x, y, _ in peaks(heat, 0.3, 4)] == [(5, 5), (15, 15)]


def test_unknown_pixels_and_unlabelled_samples_teach_nothing() -> None:
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    losses.segmentation(logits, torch.full((2, 8, 8), c.UNKNOWN, dtype=torch.uint8), torch.ones(2)).backward()
    assert logits.grad.abs().max() == 0
    scores = torch.randn(2, len(c.CLASSES), requires_grad=True)
    none = torch.tensor([-1, -1])
    losses.classification(scores, none, torch.zeros(2), torch.ones(len(c.CLASSES)), torch.zeros(2)).backward()
    assert scores.grad.abs().max() == 0


def test_a_cell_whose_parts_are_unknown_accepts_either() -> None:
    parts = torch.full((1, 8, 8), c.WBC_PART_UNKNOWN, dtype=torch.uint8)
    as_nucleus, as_background = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    as_nucleus[:, 2], as_background[:, 0] = 9, 9
    weight = torch.ones(1)
    assert losses.segmentation(as_nucleus, parts, weight) < 0.1 < losses.segmentation(as_background, parts, weight)


def test_augmentation_changes_the_picture_and_keeps_its_form() -> None:
    image = painted_field().image
    rng = np.random.default_rng(5)
    changed = [photometric(image, rng) for _ in range(8)]
    assert all(v.shape == image.shape and v.dtype == np.uint8 for v in changed)
    assert np.mean([np.abs(v.astype(int) - image).mean() for v in changed]) > 3


def test_a_run_resumes_where_it_was(tmp_path: Path) -> None:
    def fresh() -> tuple[torch.nn.Linear, Average, torch.optim.Optimizer]:
        network = torch.nn.Linear(2, 1)
        return network, Average(network, 0.9), torch.optim.AdamW(network.parameters(), lr=0.1)

    network, average, optimiser = fresh()
    run = Run(tmp_path / "run", {"seed": 1})
    assert run.resume(network, average, optimiser) == 0
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    average.update(network)
    run.save(network, average, optimiser, {"epoch": 0, "loss": 1.0})
    again = Run(tmp_path / "run", {"seed": 1})
    other, other_average, other_optimiser = fresh()
    assert again.resume(other, other_average, other_optimiser) == 1
    assert torch.equal(other.weight, network.weight)
    assert torch.equal(other_average.network.weight, average.network.weight)
    assert other_average.updates == 1
    assert len(again.results) == 1
    assert (tmp_path / "run" / "curves.png").exists()


def test_average_follows_the_network() -> None:
    network = torch.nn.Linear(2, 1)
    average = Average(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(5.0)
    for _ in range(200):
        average.update(network)
    assert torch.allclose(average.network.weight, network.weight, atol=1e-3)


def test_prefetching_hands_on_errors() -> None:
    def failing():
        yield 1
        raise ValueError("broken image")

    source = prefetched(failing())
    assert next(source) == 1
    with pytest.raises(ValueError, match="broken image"):
        next(source)


def test_exact_interval_is_the_published_one() -> None:
    """Rümke's table: 9 of 100 gives 4.2–16.4 %, 0 of 100 gives 0–3.6 %."""
    assert share(9, 100)["ci95"]["low"] == pytest.approx(0.042, abs=5e-4)
    assert share(9, 100)["ci95"]["high"] == pytest.approx(0.164, abs=5e-4)
    assert share(0, 100)["ci95"]["high"] == pytest.approx(0.036, abs=5e-4)


def test_intersection_over_union() -> None:
    assert intersection_over_union((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert intersection_over_union((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_a_stain_swap_carries_one_covariance_into_the_other() -> None:
    rng = np.random.default_rng(0)
    pale, blue = painted_field().image, painted_field().image.copy()
    blue[..., 0] = blue[..., 0] // 2 + 60
    blue[120:180, 90:150] = rng.integers(30, 90, (60, 60, 3))
    swap = StainSwap.of({"a": [pale], "b": [blue]})
    changed = swap(pale.astype(np.float32), "a", rng)
    assert changed.shape == pale.shape
    assert np.abs(changed - pale)[150, 120].max() > 5  # the nucleus changes its colour
    assert np.abs(changed - pale)[10, 10].max() < 2  # the clear slide does not
    assert np.array_equal(swap(pale.astype(np.float32), "unheard of", rng), pale)


def test_another_ground_leaves_the_cell_alone() -> None:
    item = painted_field()
    white = item.instances == 1
    ground = np.full_like(item.image, 200)
    ground[::8] = 120
    for around in (ground, None):
        changed = on_other_ground(item.image, white, around).astype(int)
        assert np.abs(changed - item.image)[140:160, 110:130].max() <= 2
        assert np.abs(changed - item.image)[150, 220].max() > 20  # the neighbour is gone


def test_a_second_cell_touches_and_never_covers() -> None:
    item = painted_field()
    around = (slice(54, 246), slice(24, 216))
    image, white = item.image[around], item.instances[around] == 1
    rng = np.random.default_rng(4)
    for _ in range(8):
        changed, there = beside(image, white, image[::-1].copy(), white[::-1].copy(), rng)
        assert not (there & white).any()
        assert there.sum() > 0.5 * white.sum()
        grown = cv2.dilate(white.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert (grown & there).any()
        inner = cv2.erode(white.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        assert np.abs(changed.astype(int) - image)[inner].max() <= 2
        assert np.abs(changed.astype(int) - image)[there].mean() > 20


def test_a_cell_cut_by_the_border_is_drawn_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    item = painted_field()
    item.image[:] = np.random.default_rng(0).integers(0, 255, item.image.shape)
    monkeypatch.setattr(train, "BORDER_SHARE", 1.0)
    for seed in range(8):
        drawn = example(Draw(item, item.cells[0], 120.5, 150.5, "neutrophil"), np.random.default_rng(seed))
        view, parts = drawn["context"][16:-16, 16:-16].astype(int), drawn["parts"]
        flat = [(side[:, -1] == side[:, -8]).all() for side in (np.rot90(view, k) for k in range(4))]
        assert sum(flat) == 1, seed  # one side is a continued edge
        turned, labels = np.rot90(view, flat.index(True)), np.rot90(parts, flat.index(True))
        first = 1 + max(x for x in range(159) if (turned[:, x] != turned[:, x + 1]).any())
        assert (labels[:, -(-(first + 1) // 2) :] == c.UNKNOWN).all()
        assert (labels[:, : first // 2 - 1] != c.UNKNOWN).any()


def test_drawn_outliers_are_pictures_and_measured_ones_were_never_learnt() -> None:
    rng = np.random.default_rng(0)
    assert not set(LEARNT) & set(HELD_OUT)
    assert not set(LEARNT.values()) & set(HELD_OUT.values())
    for families in (LEARNT, HELD_OUT):
        for name, generator in families.items():
            picture = drawn(64, rng, {name: generator})
            assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8, name
            assert picture.std() > 0.5, name
    crop = painted_field().image[100:200, 70:170]
    assert all(np.abs(spoilt(crop, rng).astype(int) - crop).mean() > 3 for _ in range(12))


def test_an_outlier_says_nothing_but_that_it_is_one() -> None:
    item = painted_field()
    target = example(Draw(item, item.cells[0], 120, 150, "artefact", outlier=True), np.random.default_rng(1))
    assert target["outlier"] == 1
    assert target["label"] == c.CLASS_INDEX["artefact"]
    assert (target["parts"] == c.UNKNOWN).all()
    assert (target["attributes"] == -1).all()
    assert target["has_box"] == 0


def test_attributes_are_known_by_name_or_not_at_all() -> None:
    cell = Cell(0, 0, "neutrophil", attributes={"nucleus_shape": "unsegmented-band", "subtype": "segmented", "granularity": ""})
    labels = dict(zip(c.ATTRIBUTES, attribute_labels(cell), strict=True))
    assert labels["nucleusShape"] == c.ATTRIBUTES["nucleusShape"].index("unsegmented-band")
    assert labels["subtype"] == 1
    assert labels["granularity"] == labels["cellSize"] == -1
    assert (attribute_labels(None) == -1).all()


def test_readings_replace_the_class_of_the_nearest_cell_only(tmp_path: Path) -> None:
    item = painted_field()
    near = f"zheng1,painted,train,{126 / 400:.4f},{150 / 300:.4f},monocyte,0.8,monocyte,monocyte"
    far = f"zheng1,painted,train,{290 / 400:.4f},{150 / 300:.4f},basophil,0.8,basophil,basophil"
    path = tmp_path / "readings.csv"
    path.write_text(f"lab,file,split,x,y,class,weight,reader_1,reader_2\n{near}\n{far}\n")
    apply_readings([item], path)
    assert (item.cells[0].label, item.cells[0].weight) == ("monocyte", 0.8)
    assert item.cells[1].label is None
    path.write_text(f"lab,file,split,x,y,class,weight,reader_1,reader_2\n{near.replace('monocyte', '', 1)}\n")
    apply_readings([item], path)
    assert item.cells[0].label is None


def test_folds_divide_no_group_and_leave_every_group_out_once() -> None:
    fields = []
    for number in range(24):
        item = painted_field()
        item.lab, item.name, item.group = "bcisc", f"field {number}", f"slide {number % 7}"
        fields.append(item)
    parts = [left_out(fields, [], 3, fold) for fold in range(3)]
    assert sorted(item.name for part in parts for item in part) == sorted(item.name for item in fields)
    groups = [{item.group for item in part} for part in parts]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    assert [item.name for item in left_out(fields, ["bcisc"], 0, 0)] == [item.name for item in fields]


def test_area_under_the_curve() -> None:
    assert area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert area_under_curve(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_the_card_tells_of_each_class() -> None:
    rows = by_class(
        {"neutrophil": {"neutrophil": 3, "monocyte": 1}, "monocyte": {"monocyte": 2, "none": 2}, "basophil": {"none": 1}}
    )
    assert rows["neutrophil"]["sensitivity"]["count"] == 3
    assert rows["neutrophil"]["positivePredictiveValue"]["value"] == 1.0
    assert rows["monocyte"]["positivePredictiveValue"]["n"] == 3
    text = class_table({"bcisc_classes": rows})
    assert "| bcisc | monocyte | 0.500 (0.068–0.932), 2 of 4 | 0.667 (0.094–0.992), 2 of 3 |" in text
    assert "| bcisc | basophil | 0.000 (0.000–0.975), 0 of 1 | never answered |" in text
    assert between("a <!-- x -->old<!-- /x --> b", "x", "new") == "a <!-- x -->\nnew\n<!-- /x --> b"
    assert between("no markers", "x", "new") == "no markers"


def test_ablations_are_compared_seed_by_seed() -> None:
    from leukodiff_training.ablations import PARTS, compared, table

    # The seeds differ by much, each part costs the same with both.
    whole = {1: {"accuracy": 0.9}, 2: {"accuracy": 0.5}}
    reached = {"whole": whole} | {part: {seed: {"accuracy": f["accuracy"] - 0.1} for seed, f in whole.items()} for part in PARTS}
    variants = compared(reached)
    assert variants["whole"]["figures"]["accuracy"] == pytest.approx({"mean": 0.7, "low": 0.5, "high": 0.9})
    for part in PARTS:
        assert variants[part]["minusWhole"]["accuracy"] == pytest.approx({"mean": -0.1, "low": -0.1, "high": -0.1})
    lines = table({"variants": variants}).splitlines()
    assert lines[2] == "| whole | 2 | 0.700 (0.500 to 0.900) |"
    assert lines[3] == "| without saliency prior | 2 | -0.100 (-0.100 to -0.100) |"
