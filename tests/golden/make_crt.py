"""Cut the numbers that the tests carry out of the full golden arrays: python make_crt.py GOLDEN_FOLDER."""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

LEFT_OUT = (  # large, or found again from the others
    "x_a", "x_b", "tr_a_pass0_in", "tr_a_pass2_in", "tr_a_block0_out", "tr_a_patch_tokens", "tr_a_pre_norm",
    "tr_a_attn_block3_pass1_head0", "trainrect_img", "trainrect_tr_map", "ms_tr_cam", "ms_cnn_cam",
    "ms_resized_0.5", "ms_resized_1.25", "ms_cnn_high_res",
)  # fmt: skip
THINNED = {"ms_tr_high_res": 7}  # every n-th row and column


def main(folder: Path) -> None:
    """Write the small copies beside this file."""
    here = Path(__file__).parent
    whole = np.load(folder / "crt_tiny.npz", allow_pickle=False)
    kept = {
        name: whole[name]
        for name in whole.files
        if name not in LEFT_OUT and not name.startswith(("r152_", "recipe_"))
    }
    for name, step in THINNED.items():
        kept[name] = kept[name][:, ::step, ::step]
    np.savez_compressed(here / "crt.npz", **kept)
    weights = load_file(folder / "crt_tiny_weights.safetensors")
    convolutional = {name: w for name, w in weights.items() if name.startswith(("resnet50.", "classifier."))}
    transformer = {name: w for name, w in weights.items() if name not in convolutional}
    save_file(convolutional, here / "crt_cnn_weights.safetensors")
    save_file(transformer, here / "crt_transformer_weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
