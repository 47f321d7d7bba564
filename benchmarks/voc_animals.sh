#!/usr/bin/env bash
# The runs behind RESULTS.md, on demand: benchmarks/voc_animals.sh DATA WEIGHTS OUT METHOD [SEED] [train-cls options]
# DATA holds images/ labels.csv masks/ train.txt val.txt; WEIGHTS is a timm file such as deit_tiny_patch16_224.safetensors.
set -euo pipefail
data=$1 weights=$2 out=$3 method=$4 seed=${5:-0}
shift $(($# < 5 ? $# : 5))

wsss run "$data/images" --labels "$data/labels.csv" --list "$data/train.txt" --val-list "$data/val.txt" \
  --truth "$data/masks" --weights "$weights" --method "$method" --seed "$seed" --scale 0.6 --scale 1 -o "$out/$method-$seed" "$@"

# Seeds on photographs that were not trained on, with their tags given.
wsss cams "$out/$method-$seed/cls/ckpt.pt" "$data/images" --labels "$data/labels.csv" --list "$data/val.txt" --scale 0.6 --scale 1 \
  -o "$out/$method-$seed/cams-val"
wsss eval "$out/$method-$seed/cams-val" --truth "$data/masks" -o "$out/$method-$seed/eval-cams-val" --json
