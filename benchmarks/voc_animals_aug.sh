#!/usr/bin/env bash
# A classifier trained on many tagged photographs, scored on others: benchmarks/voc_animals_aug.sh AUG DATA WEIGHTS OUT
# AUG holds images/ labels.csv; DATA holds images/ labels.csv masks/ train.txt val.txt; WEIGHTS is a timm file.
set -euo pipefail
aug=$1 data=$2 weights=$3 out=$4

wsss train-cls "$aug/images" --labels "$aug/labels.csv" --weights "$weights" --epochs 6 --warmup-epochs 0.3 --restart-epochs 0 --set deep_layers=7,12 --set affinity_weight=0.1 --set cls_epochs=4 -o "$out/cls"
wsss cams "$out/cls/ckpt.pt" "$aug/images" --labels "$aug/labels.csv" --no-flip -o "$out/cams"
wsss crf "$out/cams" -o "$out/crf"
wsss pseudo-labels "$out/crf" -o "$out/pseudo-labels"
wsss train-seg "$out/pseudo-labels" --weights "$out/cls/ckpt.pt" --epochs 6 --warmup-epochs 0.3 -o "$out/seg"

for split in train val; do  # seeds, with the tags given
  wsss cams "$out/cls/ckpt.pt" "$data/images" --labels "$data/labels.csv" --list "$data/$split.txt" --scale 0.6 -o "$out/cams-$split"
  wsss eval "$out/cams-$split" --truth "$data/masks" --list "$data/$split.txt" -o "$out/eval-cams-$split" --json
done
wsss predict "$out/seg/ckpt.pt" "$data/images" --list "$data/val.txt" --max-side 320 -o "$out/predictions-val"
wsss eval "$out/predictions-val" --truth "$data/masks" --list "$data/val.txt" -o "$out/eval-val" --json
