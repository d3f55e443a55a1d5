#!/usr/bin/env bash
# What guidance is worth (REPRODUCTION.md): bash recipes/guidance.sh FOOTAGE 2DCN.safetensors FOLDER
# FOOTAGE is clips/ of what recipes/footage.py writes, 2DCN the last stage of default_weights.sh. All
# stages fill each frame alone, so that of other frames CombCN knows what 3DCN tells it. FOLDER gets
# combcn.safetensors, and 2dcn.safetensors, the 2DCN trained on.
# The stages were run one after another by hand; this script as a whole was not. The last two were run in
# pieces, each begun with more --steps: the rate fell to 0 at 1,250 and again at 3,600 steps of CombCN,
# and at 1,000 and 2,900 of 2DCN.
set -euo pipefail
footage=$1 single=$2 folder=$3
mkdir -p "$folder"
export OMP_NUM_THREADS=1
settings=(--workers 0 --save-every 50 --clip-length 8 --coarsest 2.0 --precision bf16 --fills smooth
    --size 128 --ema 0.997)
train() { # train NAME OPTION ...
    combcn train "$footage" --output "$folder/$1.safetensors" "${settings[@]}" "${@:2}"
}

# 3DCN: to copy from the frames nearby, which boxes in other places teach at once.
train 3dcn --mode pretrain --repeats 4 --calibration-clips 0 --learning-rate 1e-3 \
    --warmup-steps 50 --decay-share 0.5 --batch 8 \
    --holes random-box random-box moving-box box object --seed 41 --steps 3500 --start default

# CombCN joins it; then with more holes that stay in place.
both=(--repeats 5 --calibration-clips 200 --half --detail-frames 3 --learning-rate 3e-4
    --warmup-steps 30 --decay-share 0.6 --batch 12)
train joint --mode joint "${both[@]}" --holes box random-box random-box moving-box object \
    --seed 43 --steps 1500 --start "$folder/3dcn.safetensors" --start-detail "$single"
mostly_boxes=(--steady-frames 0 --holes box box random-box moving-box object)
train combcn --mode joint "${both[@]}" "${mostly_boxes[@]}" --seed 45 --steps 3600 \
    --start "$folder/joint.safetensors"

# For comparison, 2DCN on the same.
train 2dcn --mode scratch "${both[@]}" "${mostly_boxes[@]}" --seed 46 --steps 2900 --start "$single"
