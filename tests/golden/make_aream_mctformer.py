"""Cut the numbers that the tests carry out of the full golden arrays: python make_aream_mctformer.py GOLDEN_FOLDER."""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

KEEP = (
    "labels", "x", "class_logits", "patch_logits", "patch_map_prerelu", "cam_gen_grid", "cam_aream_uni_grid",
    "cam_aream_ent_grid", "cam_mctv2_orig_grid", "msf_cam_uni", "msf_cam_ent", "entropy_per_image", "entropy_raw",
    "entropy_norm", "step_ent_seg_label", "step_uni_seg_label", "step_ent_aff_label", "step_uni_aff_label",
    "step_ent_aff_loss_per_layer", "step_ent_cls_loss", "step_ent_aff_loss", "step_ent_loss", "step_uni_cls_loss",
    "step_uni_aff_loss_per_layer", "step_uni_aff_loss", "step_uni_loss",
    "step_ent_grad_norm_names", "step_ent_grad_norms",
    "gen_image_u8", "gen_image_norm", "gen_label", "gen_key", "gen_cam", "par_img", "par_mask_in",
    "par_mask_out_1iter", "par_mask_out",
)  # fmt: skip


def main(folder: Path) -> None:
    """Write the small copies beside this file."""
    here = Path(__file__).parent
    whole = np.load(folder / "mctformer_tiny.npz", allow_pickle=False)
    kept = {}
    for name in whole.files:
        if name.removeprefix("s64x64_").removeprefix("s80x112_") in KEEP:
            array = whole[name]
            kept[name] = array.astype(np.uint8) if "label" in name and array.dtype == np.int64 else array
    pipeline = np.load(folder / "pipeline_tiny.npz", allow_pickle=False)
    kept |= {
        name: pipeline[name] for name in ("lr_mct_epoch", "optim_mct_decay_names", "optim_mct_nodecay_names")
    }
    np.savez_compressed(here / "aream_mctformer.npz", **kept)
    save_file(
        load_file(folder / "mctformer_tiny_weights.safetensors"), here / "aream_mctformer_weights.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
