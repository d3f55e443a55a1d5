#!/usr/bin/env bash
# The weights that come with CombCN: bash recipes/default_weights.sh DATA OUTPUT.safetensors
# DATA holds the clips and photographs that combcn_core/weights/README.md names, and nothing else
# but the clips' metadata.csv. Stopped and started again it goes on. Beside OUTPUT come to lie the
# networks that were trained alone, and OUTPUT's 2DCN: the same second network after the same
# steps, without guidance, for benchmarks/paper_table.py.
set -euo pipefail
data=$(realpath "$1") output=$2 name=${2%.safetensors}

footage=${name}_footage
mkdir -p "$footage"
ln -sf "$data"/* "$footage"
if [[ ! -d $footage/leaves ]]; then # whole or not at all
    python "$(dirname "$0")/dead_leaves.py" "${name}_leaves" 40
    mv "${name}_leaves" "$footage/leaves"
fi

# Clips not smaller than 96: a dilation of 16 at a quarter of the size would see only padding.
settings=(--size 96 --learning-rate 5e-4 --weight-decay 1e-5 --ema 0.998 --precision fp32
    --workers 1 --sample-every 100 --save-every 50)
clips=(--batch 4 --clip-length 8 --holes box moving-box blob object --repeats 2 --coarsest 3)
both=("${settings[@]}" "${clips[@]}" --fills smooth rest propagate --detail-frames 2 --steps 150
    --warmup-steps 50 --decay-share 0.6 --calibration-clips 200)

# 1. The second network alone, on single frames: most of a step's time goes into it, and frames of
#    one clip teach it little that one of them does not.
combcn train "$footage" --output "${name}_2dcn_alone.safetensors" "${settings[@]}" \
    --no-guidance --mode scratch --steps 500 --batch 8 --clip-length 1 \
    --holes box blob object --fills smooth --repeats 2 --decay-share 0.3 --calibration-clips 0
# 2. 3DCN alone.
combcn train "$footage" --output "${name}_3dcn.safetensors" "${settings[@]}" "${clips[@]}" \
    --mode pretrain --steps 250 --fills smooth --decay-share 0.3 --calibration-clips 0
# 3. Both, end to end, on what the pipeline leaves to them.
combcn train "$footage" --output "$output" "${both[@]}" --half \
    --start "${name}_3dcn.safetensors" --start-detail "${name}_2dcn_alone.safetensors"
# For comparison: as many steps without guidance.
combcn train "$footage" --output "${name}_2dcn.safetensors" "${both[@]}" \
    --mode scratch --start "${name}_2dcn_alone.safetensors"
