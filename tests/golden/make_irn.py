"""Cut the numbers that the tests carry out of the full golden arrays: python make_irn.py GOLDEN_FOLDER."""

import sys
from pathlib import Path

import numpy as np

KEEP = (
    "ir_img", "ir_high_res", "ir_keys", "ir_thres", "ir_fg_argmax", "ir_fg_crf", "ir_bg_argmax", "ir_bg_crf",
    "ir_label",
    "path_dst_r5", "path_group_shape_r5", "path_coords_r5", "path_dst_r10", "path_group_shape_r10",
    "rw_edge", "rw_cam", "rw_keys", "rw_params", "rw_sparse_aff", "rw_src_indices", "rw_dst_indices_head", "rw_trans",
    "rw_out", "rw_up_norm", "rw_label",
    "aff_segm", "aff_segm_reduced", "aff_bg_pos", "aff_fg_pos", "aff_neg", "aff_pos_loss_b0", "aff_neg_loss_b0_head",
)  # fmt: skip


def main(folder: Path) -> None:
    """Write the small copy beside this file."""
    whole = np.load(folder / "crt_post.npz", allow_pickle=False)
    np.savez_compressed(Path(__file__).parent / "irn.npz", **{name: whole[name] for name in KEEP})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
