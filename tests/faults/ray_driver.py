"""`wsss` with two images a shard and a stage that waits: `python ray_driver.py ARGUMENTS...`."""

from __future__ import annotations

import sys

import held_stage

from wsss_cli.cli import main
from wsss_cli.stages import distributed, pseudo_labels

if __name__ == "__main__":
    distributed.IMAGES_A_SHARD = 2
    pseudo_labels.run = held_stage.run
    sys.exit(main(sys.argv[1:]))
