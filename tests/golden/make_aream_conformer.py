"""Cut the numbers that the tests carry out of the full golden arrays: python make_aream_conformer.py GOLDEN_FOLDER.

The weights are cut in two, by size, to stay below what a repository should hold in one file.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

KEEP = (
    "labels", "x", "cnn_logits", "att_logits", "cam_raw", "tokens_norm_out", "cnn_feat_out", "tokens_after_block2",
    "conv1_stage_out_ch0to3", "attn_presoftmax", "cam_gen_grid", "cam_aream_uni_grid", "cam_aream_ent_grid",
    "msf_cam_uni_evalmode", "msf_cam_ent_evalmode", "entropy_per_image", "entropy_raw", "entropy_norm", "img_box",
    "gen_image_u8", "gen_label", "gen_key", "gen_cam", "gen_scaled_0", "gen_scaled_2",
)  # fmt: skip
STEP = (
    "msf_cam_trainmode", "seg_label", "aff_label", "aff_loss_per_layer", "cls_loss", "aff_loss", "loss",
    "grad_norm_names", "grad_norms", "after/bn1.running_mean", "after/bn1.running_var", "after/bn1.num_batches_tracked",
    "after/conv_trans_12.fusion_block.bn3.running_mean", "after/conv_trans_12.fusion_block.bn3.running_var",
)  # fmt: skip
LARGE = ("msf_cam", "cam_aream_", "attn_", "conv1_stage")  # kept of one size only


def wanted(name: str) -> bool:
    """Whether the tests carry the array."""
    plain = name.removeprefix("s64x64_").removeprefix("s64x96_")
    if name.startswith("s64x96_") and plain.startswith(LARGE):
        return False
    return plain in KEEP or plain.removeprefix("step_ent_").removeprefix("step_uni_") in STEP


def main(folder: Path) -> None:
    """Write the small copies beside this file."""
    here = Path(__file__).parent
    whole = np.load(folder / "conformer_tiny.npz", allow_pickle=False)
    kept = {name: whole[name] for name in whole.files if wanted(name)}
    for name, array in kept.items():
        kept[name] = array.astype(np.uint8) if "label" in name else array
    kept["lr_steps"] = np.load(folder / "pipeline_tiny.npz", allow_pickle=False)["lr_conformer_steps"]
    np.savez_compressed(here / "aream_conformer.npz", **kept)
    weights = load_file(folder / "conformer_tiny_weights.safetensors")
    half = len(weights) // 2
    for number, names in enumerate((sorted(weights)[:half], sorted(weights)[half:]), start=1):
        part = {name: weights[name] for name in names}
        save_file(part, here / f"aream_conformer_weights_{number}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
