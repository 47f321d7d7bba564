"""`wsss` with two images a shard, and stages that can be made to wait: `python ray_driver.py ARGUMENTS...`."""

from __future__ import annotations

import sys

import held_stage

from wsss_cli.cli import main
from wsss_cli.stages import cams, distributed, pseudo_labels

if __name__ == "__main__":
    distributed.IMAGES_A_SHARD = 2
    cams.run, pseudo_labels.run = held_stage.cams, held_stage.masks
    sys.exit(main(sys.argv[1:]))
