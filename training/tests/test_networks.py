"""The networks' shapes, the proof of the in-graph Grad-CAM, and the export."""

import copy
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from leukodiff_training import constants as c
from leukodiff_training.backbone import WindowAttention
from leukodiff_training.export import TOLERANCE, CellGraph, export_cells, export_saliency, parity, weights_from_onnx
from leukodiff_training.saliency import SaliencyNetwork
from leukodiff_training.sgcldff import CONSISTENCY_WEIGHTS, SGCLDFF, ColourConstancy, consistency

SHIPPED = sorted((Path(__file__).parents[2] / "models" / "sg-cldff").glob("*/manifest.json"))[-1].parent


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """Random values in every parameter and statistic, so that no two tensors are equal and no path is idle."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dtype.is_floating_point and name.split(".")[-1] in {
            "weight",
            "bias",
            "running_mean",
            "gain1",
            "gain2",
        }:
            value.add_(torch.randn_like(value) * 0.02)
    return network.eval()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def network() -> SGCLDFF:
    # Before the weights are drawn: a network drawn at random may have no evidence at all for its class.
    torch.manual_seed(0)
    return stirred(SGCLDFF(pretrained=False))


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(count, 3, c.CROP_SIZE, c.CROP_SIZE, generator=generator) * 255
    return rgb, torch.rand(count, 1, c.CROP_SIZE, c.CROP_SIZE, generator=generator)


def test_shapes(network: SGCLDFF) -> None:
    out = network(*inputs())
    assert out.logits.shape == (2, len(c.CLASSES))
    assert out.segmentation.shape == (2, 3, 80, 80)
    assert out.evidence.shape[2:] == (c.CAM_SIZE, c.CAM_SIZE)


def multiply_accumulates(module: torch.nn.Module, *given: torch.Tensor) -> int:
    """Of convolutions and linear layers, and of the attention's two products."""
    total = 0

    def convolution(layer, _, output) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    def linear(layer, _, output) -> None:
        nonlocal total
        total += output.numel() * layer.in_features

    def attention(_, arguments, __) -> None:
        nonlocal total
        count, length, channels = arguments[0].shape
        total += 2 * count * length * length * channels

    kinds = {torch.nn.Conv2d: convolution, torch.nn.Linear: linear, WindowAttention: attention}
    hooks = [m.register_forward_hook(h) for m in module.modules() for k, h in kinds.items() if isinstance(m, k)]
    with torch.no_grad():
        module(*given)
    for hook in hooks:
        hook.remove()
    return total


def test_size_stays_within_its_budget(network: SGCLDFF) -> None:
    assert sum(p.numel() for p in network.parameters()) <= 8_000_000
    crop = torch.zeros(1, c.CROP_SIZE, c.CROP_SIZE, 3, dtype=torch.uint8), torch.zeros(1, c.CROP_SIZE, c.CROP_SIZE)
    assert multiply_accumulates(CellGraph(network, 1.0).eval(), *crop) <= 1_000_000_000  # both looks at a cell
    camera_frame = torch.zeros(1, 80, 96, 3, dtype=torch.uint8)  # 640×480 at 0.07 µm per pixel
    assert multiply_accumulates(SaliencyNetwork().eval(), camera_frame) <= 500_000_000


def test_grad_cam_in_the_graph_is_autograd_grad_cam(network: SGCLDFF) -> None:
    """Grad-CAM (Selvaraju et al. 2017): weights are the mean gradients of the class score; equal up to a positive factor."""
    rgb, prior = inputs()
    out = network(rgb, prior)
    out.evidence.retain_grad()
    chosen = out.logits.argmax(dim=1)
    out.logits.gather(1, chosen[:, None]).sum().backward()
    alpha = out.evidence.grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((alpha * out.evidence).sum(dim=1)).detach()
    found = network.grad_cam(out.evidence, chosen).detach()
    scale = expected.amax(dim=(1, 2), keepdim=True), found.amax(dim=(1, 2), keepdim=True)
    assert scale[0].min() > 0
    assert (expected / scale[0] - found / scale[1]).abs().max() <= 1e-4


def test_prior_guides_the_features(network: SGCLDFF) -> None:
    rgb, prior = inputs()
    guided = copy.deepcopy(network)
    with torch.no_grad():
        before = guided(rgb, prior).segmentation
        assert torch.equal(before, guided(rgb, prior).segmentation)
        for gate in guided.backbone.guidance:
            gate.scale.weight.fill_(0.5)
        assert (guided(rgb, prior).segmentation - guided(rgb, 0 * prior).segmentation).abs().max() > 1e-3
        for gate in guided.backbone.guidance:
            torch.nn.init.zeros_(gate.scale.weight)
        assert torch.equal(guided(rgb, prior).segmentation, guided(rgb, 0 * prior).segmentation)


@pytest.mark.parametrize("lacking", ["guided", "attention", "fusion"])
def test_variants_of_the_ablations_start_from_the_same_weights(lacking: str) -> None:
    def drawn(**parts: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(3)
        return SGCLDFF(pretrained=False, **parts).state_dict(), torch.rand(1)

    (whole, after), (variant, after_variant) = drawn(), drawn(**{lacking: False})
    assert set(variant) <= set(whole)
    assert all(torch.equal(value, whole[name]) for name, value in variant.items())
    # What is drawn during the training is the same too.
    assert torch.equal(after, after_variant)


def test_even_attention_is_window_attention_whose_queries_ask_for_nothing() -> None:
    from leukodiff_training.ablations import EvenAttention
    from leukodiff_training.backbone import WindowAttention

    attention = stirred(WindowAttention(8, 2))
    tokens = torch.randn(3, 25, 8)
    with torch.no_grad():
        even = EvenAttention(attention)(tokens, None)
        assert not torch.allclose(even, attention(tokens, None), atol=1e-3)
        attention.qkv.weight[:8] = 0
        attention.qkv.bias[:8] = 0
        attention.bias.zero_()
        assert torch.allclose(even, attention(tokens, None), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("attention stages passed by", {"attention": False}),
        ("only the deepest layer fused", {"fusion": False}),
    ],
)
def test_what_is_taken_out_of_a_finished_network_is_what_its_variant_lacks(
    network: SGCLDFF, change: str, missing: dict[str, bool]
) -> None:
    from leukodiff_training.ablations import CHANGES

    changed, variant = copy.deepcopy(network), SGCLDFF(pretrained=False, **missing).eval()
    CHANGES[change].network(changed)
    variant.load_state_dict({name: value for name, value in network.state_dict().items() if name in variant.state_dict()})
    with torch.no_grad():
        assert not torch.equal(changed(*inputs()).logits, network(*inputs()).logits)
        assert torch.equal(changed(*inputs()).logits, variant(*inputs()).logits)


def test_shifted_window_does_not_mix_across_the_cut() -> None:
    from leukodiff_training.backbone import SwinBlock

    block = stirred(SwinBlock(8, 2, 10, 2))
    x = torch.randn(1, 10, 10, 8)
    y = x.clone()
    y[0, 0, 0] += 5.0
    changed = (block(x) - block(y)).abs().amax(dim=-1)[0] > 1e-5
    assert changed[0, 0]
    assert not changed[9].any() and not changed[:, 9].any()  # the roll brings row 9 next to row 0: the mask keeps them apart


def test_consistency_is_one_where_all_agree_and_less_where_a_part_does_not() -> None:
    cell = torch.zeros(1, 20, 20)
    cell[:, 5:15, 5:15] = 1
    sure, unsure = torch.ones(1), torch.full((1,), 0.2)
    score, parts = consistency(cell, cell, cell, sure)
    assert score.item() == pytest.approx(1.0, abs=1e-3)
    assert parts[0].tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    # Parts clamp at one in a million: what no evidence supports keeps that, to the power of the weight.
    assert consistency(1 - cell, cell, cell, sure)[0].item() == pytest.approx(1e-6 ** CONSISTENCY_WEIGHTS[0], abs=1e-3)
    assert consistency(cell, cell, cell, unsure)[0].item() == pytest.approx(0.2 ** CONSISTENCY_WEIGHTS[2], abs=1e-3)
    # Soft overlap of a cell on 100 places with a prior on all 400.
    assert consistency(cell, torch.ones_like(cell), cell, sure)[0].item() == pytest.approx(0.4 ** CONSISTENCY_WEIGHTS[1], abs=1e-3)
    assert sum(CONSISTENCY_WEIGHTS) == pytest.approx(1)


def test_the_lamp_does_not_change_what_the_network_sees() -> None:
    """Colour constancy: another light colour and exposure, the same picture (as far as 8 bits carry it)."""
    generator = torch.Generator().manual_seed(4)
    smear = torch.full((1, 3, 160, 160), 200.0) + torch.randn(1, 3, 160, 160, generator=generator) * 2
    smear[:, :, 50:110, 50:110] = torch.tensor([110.0, 60.0, 140.0])[:, None, None]
    constancy = ColourConstancy()
    plain = constancy(smear)
    lit = constancy((smear + 4) * torch.tensor([0.7, 0.9, 1.15])[:, None, None] - 4)
    assert (plain - lit).abs().max() < 1.0
    assert plain[:, :, :40].mean().item() == pytest.approx(ColourConstancy.white, abs=3)


def test_the_counterfactual_keeps_the_cell_and_nothing_else() -> None:
    rgb, _ = inputs(1)
    cell = torch.zeros(1, 1, 160, 160)
    cell[..., 60:100, 60:100] = 1
    alone = ColourConstancy().on_clear_ground(rgb, cell)
    assert (alone - rgb)[..., 60:100, 60:100].abs().max() < 0.01
    outside = alone[..., :60, :]
    assert outside.flatten(2).std(dim=2).max() < 0.01


def test_export_of_stirred_networks_agrees_with_pytorch(network: SGCLDFF, tmp_path: Path) -> None:
    saliency = stirred(SaliencyNetwork())
    graph = CellGraph(network, 1.3).eval()
    export_saliency(saliency, tmp_path / "saliency.onnx")
    export_cells(graph, tmp_path / "sg-cldff.onnx")
    worst = parity(saliency, graph, tmp_path)
    assert worst["logits"] <= TOLERANCE
    assert max(worst[k] for k in ("saliency", "centres", "scale", "probabilities", "segmentation")) <= TOLERANCE


def test_shipped_files_agree_with_pytorch_and_can_be_trained_on() -> None:
    """The shipped initialisers load into the networks by name, and those compute what the shipped graphs compute."""
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    saliency, network = SaliencyNetwork(), SGCLDFF(pretrained=False)
    for target, file, prefix in ((saliency, "saliency.onnx", ""), (network, "sg-cldff.onnx", "network.")):
        missing, _ = target.load_state_dict(weights_from_onnx(SHIPPED / file, prefix), strict=False)
        assert [name for name in missing if "num_batches_tracked" not in name] == []
    graph = CellGraph(network.eval(), manifest["cells"]["temperature"]).eval()
    worst = parity(saliency.eval(), graph, SHIPPED)
    assert worst["logits"] <= TOLERANCE
    assert worst["probabilities"] <= TOLERANCE


def test_shipped_manifest_names_what_the_files_have() -> None:
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(SHIPPED / manifest["files"]["cells"]["path"])
    assert {i.name for i in session.get_inputs()} == set(manifest["cells"]["inputs"].values())
    assert set(manifest["cells"]["outputs"].values()) <= {o.name for o in session.get_outputs()}
    assert manifest["cells"]["classes"] == c.CLASSES
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    assert total < 40_000_000


def test_saliency_network_takes_any_multiple_of_sixteen() -> None:
    network = stirred(SaliencyNetwork())
    for height, width in ((16, 16), (48, 176)):
        saliency, centres, scale = network(torch.zeros(1, height, width, 3, dtype=torch.uint8))
        assert saliency.shape == centres.shape == (1, height // 2, width // 2)
        assert np.isclose(scale.exp().sum().item(), 1, atol=1e-4)
