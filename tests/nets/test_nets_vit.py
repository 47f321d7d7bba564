"""The transformer trunk: timm's own numbers, any size, many class tokens, attention that can be watched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from listener import Listener
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.nets.backbones.load import load_backbone, resolve_name
from wsss_cli.nets.backbones.vit import ViT, attended, mean_logits


def small(**changes: object) -> VisionTransformer:
    """Two blocks of width 12 on 4x4 patches of a 16 px image."""
    values = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 0}
    torch.manual_seed(0)
    model = VisionTransformer(**{**values, "dynamic_img_size": True, **changes})
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"reg_tokens": 2}, {"no_embed_class": True, "reg_tokens": 1}, {"qk_norm": True, "init_values": 0.1},
     {"class_token": False, "global_pool": "avg"}],
)  # fmt: skip
@pytest.mark.parametrize("size", [(16, 16), (16, 28), (8, 12)])
def test_equals_timm(changes: dict[str, object], size: tuple[int, int]) -> None:
    """The same tokens as timm's own forward pass, for every kind of prefix and for sizes it was not built for."""
    model = small(**changes)
    images = torch.randn(2, 3, *size)
    expected = model.fc_norm(model.forward_features(images))
    vit = ViT(model)
    tokens = vit(images)
    patches = expected[:, vit.prefix :].transpose(1, 2).reshape(2, 12, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(tokens.patches, patches)
    torch.testing.assert_close(tokens.classes, expected[:, : vit.class_tokens])


def test_watching_shows_what_the_blocks_used() -> None:
    """What is handed over is what a block attends with, as a whole or some rows of it; its tokens stay the same."""
    vit, images, used = ViT(small(reg_tokens=2)), torch.randn(1, 3, 16, 20), {}
    for layer, block in enumerate(vit.blocks):
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call, layer=layer: used.update({layer: call[2]}))
    unseen = vit(images)
    for rows in (slice(None), slice(2)):
        listener = Listener(rows)
        torch.testing.assert_close(vit(images, listener).patches, unseen.patches)
        assert listener.layers == [0, 1]
        for layer, seen in enumerate(listener.attention):
            torch.testing.assert_close(seen, used[layer].mean(dim=1)[:, rows])


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "init_values": 0.1}])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_in_the_open_is_that_of_the_module(changes: dict[str, object], fused: bool) -> None:
    """Where all of it is wanted, tokens and attention stay those of timm, whichever way timm would have gone."""
    vit, images, used, listener = ViT(small(**changes)), torch.randn(2, 3, 16, 20), [], Listener()
    for block in vit.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: used.append(call[2].mean(dim=1)))
    unseen = vit(images)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    torch.testing.assert_close(vit(images, listener).patches, unseen.patches)
    torch.testing.assert_close(listener.attention, used)
    assert all(block.attn.fused_attn is fused for block in vit.blocks)


@torch.no_grad()
@pytest.mark.parametrize("forward", [lambda x, **_: x, lambda x, **_: masked(x)])
def test_attention_that_cannot_be_read_is_not_passed_over(forward: Callable[..., Tensor]) -> None:
    """Another timm may attend without the kernel, or with a mask: maps must not go on as if nothing was there."""
    vit = ViT(small())
    vit.blocks[1].attn.forward = forward
    with pytest.raises(RuntimeError, match="read"):
        vit(torch.randn(1, 3, 16, 16), Listener())


def masked(x: Tensor) -> Tensor:
    """Attention of tokens (B, T, D) to none of them in particular, with a mask."""
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], torch.ones(x.shape[1]).bool())


@torch.no_grad()
@pytest.mark.parametrize("band", [1, 700, 4000])
def test_some_rows_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    """A cut of the rows changes neither what the module goes on with nor what the observer sees."""
    q, k, v = (torch.randn(2, 3, 37, 8) for _ in range(3))
    whole = attended(q, k, v)
    monkeypatch.setattr("wsss_cli.nets.backbones.vit.BAND", band)
    torch.testing.assert_close(attended(q, k, v), whole)
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    torch.testing.assert_close(whole, (weights @ v, weights.mean(dim=1)))


@torch.no_grad()
def test_attention_in_the_open_in_half_precision() -> None:
    """S adds up to 1 as in single precision, and is near it; tokens are as near as those of the fused kernel."""
    vit, images, exact, listener = ViT(small()), torch.randn(2, 3, 16, 20), Listener(), Listener()
    expected = vit(images, exact).patches
    with torch.autocast("cpu", torch.bfloat16):
        kernel, found = vit(images).patches, vit(images, listener).patches
    for half, single in zip(listener.attention, exact.attention, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half.sum(dim=-1), torch.ones(half.shape[:-1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(half, single, atol=0, rtol=0.03)
    assert (found - expected).abs().max() <= 1.5 * (kernel - expected).abs().max()


def test_mean_logits_are_those_of_the_heads() -> None:
    """One product of all heads side by side is the mean of the products of each."""
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(mean_logits(q, k), (q @ k.transpose(-2, -1)).mean(dim=1))


def test_hooks_go_away_even_when_the_observer_fails() -> None:
    """A borrowed net is left as it was found."""
    vit = ViT(small())

    class Failing(Listener):
        def __call__(self, *_: object) -> None:
            raise RuntimeError("observer")

    with pytest.raises(RuntimeError, match="observer"):
        vit(torch.randn(1, 3, 16, 16), Failing())
    for block in vit.blocks:
        assert not block.attn.qkv._forward_hooks
        assert not block.attn._forward_pre_hooks
        assert block.attn.fused_attn


def test_class_tokens_start_as_copies() -> None:
    """Without spread, many equal class tokens with the position of the one; the patches keep theirs."""
    vit = ViT(small())
    old_token, old_positions = vit.cls_token.clone(), vit.pos_embed.clone()
    vit.expand_class_tokens(5)
    assert vit.class_tokens == vit.prefix == 5
    assert torch.equal(vit.cls_token, old_token.repeat(1, 5, 1))
    assert torch.equal(vit.pos_embed[:, 5:], old_positions[:, 1:])
    assert torch.equal(vit.pos_embed[:, 4], old_positions[:, 0])
    tokens = vit(torch.randn(1, 3, 16, 16)).classes
    torch.testing.assert_close(tokens[:, :1].expand_as(tokens), tokens)


def test_spread_parts_the_class_tokens() -> None:
    """With spread, no two tokens are alike; seeded, they are the same each time."""
    torch.manual_seed(1)
    first = ViT(small())
    first.expand_class_tokens(3, 0.5)
    second = ViT(small())
    torch.manual_seed(0)
    second_again = ViT(small())
    torch.manual_seed(7)
    second.expand_class_tokens(3, 0.5)
    torch.manual_seed(7)
    second_again.expand_class_tokens(3, 0.5)
    assert (first.cls_token[0, 0] - first.cls_token[0, 1]).abs().max() > 1e-3
    assert torch.equal(second.cls_token, second_again.cls_token)


def test_scale_factor_positions_are_no_identity_off_the_native_grid() -> None:
    """MCTformer's factors (h+0.1)/g resample a non-square grid of as many patches, and leave the native one alone."""
    vit = ViT(small())
    vit.positions = "scale-factor"
    table = vit.pos_embed[:, 1:]
    assert torch.equal(vit._patch_positions(table, 4, 4, square=True), table)
    assert vit._patch_positions(table, 2, 8, square=False).shape == table.shape
    assert vit._patch_positions(table, 5, 7, square=False).shape == (1, 35, 12)


def test_names() -> None:
    """`auto` follows the name of the weights file; a wrong name gets the nearest one."""
    from pathlib import Path

    assert resolve_name("auto", None) == "tiny"
    assert resolve_name("auto", Path("x/deit_tiny_patch16_224.safetensors")) == "deit_tiny_patch16_224"
    assert resolve_name("resnet18", Path("any.pth")) == "resnet18"
    with pytest.raises(UsageError, match="Name one with --backbone"):
        resolve_name("auto", Path("mine.pth"))
    with pytest.raises(UsageError, match="Did you mean 'deit_tiny_patch16_224'"):
        load_backbone("deit_tiny_patch16_22")


def test_weights_that_do_not_fit_name_a_key() -> None:
    """A missing, unknown or misshapen entry is named; the classifier's head does not count."""
    state = timm.create_model("test_vit", num_classes=7).state_dict()
    load_backbone("test_vit", weights=state)
    for broken, what in (
        ({k: v for k, v in state.items() if k != "pos_embed"}, "missing, first 'pos_embed'"),
        ({**state, "extra": torch.zeros(1)}, "unknown, first 'extra'"),
        ({**state, "cls_token": torch.zeros(1, 1, 3)}, "wrong shape, first 'cls_token'"),
    ):
        with pytest.raises(RejectedInputError, match=what):
            load_backbone("test_vit", weights=broken)


def test_a_cnn_keeps_its_statistics_when_it_has_weights() -> None:
    """BatchNorm stays in eval mode under train(), and features come at stride 16 where the family allows."""
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    cnn = load_backbone("test_resnet", weights=state).backbone.train()
    norms = [module for module in cnn.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert cnn(torch.randn(1, 3, 64, 96)).shape[1] == cnn.width


def test_a_network_without_readable_attention_is_refused() -> None:
    """Other transformers say which names work."""
    with pytest.raises(UsageError, match="vit_, deit_ or deit3_"):
        ViT(timm.create_model("test_resnet"))  # type: ignore[arg-type]


@torch.no_grad()
def test_pixels_beyond_the_last_patch_are_left_out() -> None:
    """A picture of any size is read as far as whole patches go."""
    vit = ViT(small())
    images = torch.randn(1, 3, 18, 23)
    torch.testing.assert_close(vit(images).patches, vit(images[..., :16, :20]).patches)


@torch.no_grad()
def test_tap_is_a_block_before_the_norm() -> None:
    """The last block's tap, normalised, is the result; without a tap there is none."""
    vit = ViT(small())
    images = torch.randn(2, 3, 16, 28)
    tokens = vit(images, tap=1)
    assert tokens.tapped is not None
    norm = vit.norm(tokens.tapped.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(norm, tokens.patches)
    torch.testing.assert_close(vit(images, final_norm=False).patches, tokens.tapped)
    assert vit(images).tapped is None
