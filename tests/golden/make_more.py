"""Cut the numbers that the tests carry out of the full golden arrays: python make_more.py GOLDEN_FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

NETWORK = (
    "img_u8", "y", "pos", "final", "patch_aux", "cls", "cls_aux", "seg", "cam_raw", "cam_aux_raw", "lam_raw",
    "lam_raw_nogcr", "gcr_edge", "gcr_out",
)  # fmt: skip
LEFT_OUT = ("p_x", "p_denorm_u8", "par_", "t_cams", "t_seg_grid")
UNUSED = ("encoder.head.", "graph_layer._fc1.")
FILES = ("more_tiny.npz", "more_tiny_infer.npz", "more_tiny_losses.npz", "more_tiny_train.npz")


def kept(file: str, name: str, array: np.ndarray) -> np.ndarray | None:
    """The array as the tests carry it: whole, thinned, or None."""
    if file == "more_tiny.npz":
        return array if name[2:] in NETWORK or name.startswith("gcru_") else None
    if file == "more_tiny_infer.npz":
        if name.startswith(("a_ms", "b_ms")):
            return array[..., ::4, ::4]
        return array if name in ("inf_img_u8", "inf_base", "inf_lam7", "inf_clspred") else None
    return None if name.startswith(LEFT_OUT) else array


def main(folder: Path) -> None:
    """Write the small copies beside this file."""
    here = Path(__file__).parent
    arrays = {}
    for file in FILES:
        whole = np.load(folder / file, allow_pickle=False)
        arrays |= {
            name: small for name in whole.files if (small := kept(file, name, whole[name])) is not None
        }
    about = json.loads((folder / "meta.json").read_text())
    arrays["param_order"] = np.array(about["param_order"])
    arrays["grad_columns"] = np.array(about["grad_columns"])
    np.savez_compressed(here / "more.npz", **arrays)
    weights = load_file(folder / "more_tiny_weights.safetensors")
    save_file(
        {name: array for name, array in weights.items() if not name.startswith(UNUSED)},
        here / "more_weights.safetensors",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
