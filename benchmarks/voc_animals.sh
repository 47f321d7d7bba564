#!/usr/bin/env bash
# The runs behind RESULTS.md, on demand: benchmarks/voc_animals.sh DATA WEIGHTS OUT METHOD [SEED] [train-cls options]
# DATA holds images/ labels.csv masks/ train.txt val.txt; WEIGHTS is a timm file such as deit_tiny_patch16_224.safetensors.
set -euo pipefail
data=$1 weights=$2 out=$3/$4-${5:-0} method=$4 seed=${5:-0}
shift $(($# < 5 ? $# : 5))

score() { wsss eval "$out/$1" --truth "$data/masks" --list "$data/$2.txt" -o "$out/eval-$1-$2" --json; }
maps() { wsss cams "$out/cls/ckpt.pt" "$data/images" --labels "$data/labels.csv" --list "$data/$2.txt" "${@:3}" -o "$out/$1"; }

wsss train-cls "$data/images" --labels "$data/labels.csv" --list "$data/train.txt" --val-list "$data/val.txt" --weights "$weights" \
  --epochs 25 --warmup-epochs 2 --method "$method" --seed "$seed" -o "$out/cls" "$@"
for split in train val; do  # seeds, with the tags given
  maps "cams-$split" "$split" --scale 0.6
  score "cams-$split" "$split"
done
maps cams train --scale 0.6 --scale 1
wsss crf "$out/cams" -o "$out/crf"
wsss pseudo-labels "$out/crf" -o "$out/pseudo-labels"
wsss train-seg "$out/pseudo-labels" --weights "$out/cls/ckpt.pt" -o "$out/seg"
wsss predict "$out/seg/ckpt.pt" "$data/images" --list "$data/val.txt" -o "$out/predictions"
for stage in cams crf pseudo-labels; do score "$stage" train; done
score predictions val
