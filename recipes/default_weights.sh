#!/usr/bin/env bash
# The weights that come with CombCN: bash recipes/default_weights.sh DATA OUTPUT.safetensors
# DATA holds the clips that combcn_core/weights/README.md names, and their metadata.csv. Stopped and
# started again it goes on.
set -euo pipefail

combcn train "$1" --output "$2" --where weights_ok=yes --half \
    --pretrain-steps 300 --steps 600 --batch 6 --detail-frames 2 \
    --size 64 --clip-length 8 --coarsest 3 --repeats 6 \
    --holes box moving-box blob object --fills smooth smooth rest propagate \
    --decay-share 0.1 --calibration-clips 240 --precision bf16
