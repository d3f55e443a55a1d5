#!/usr/bin/env bash
# The weights that come with CombCN: bash recipes/default_weights.sh DATA OUTPUT.safetensors
# DATA holds the clips and photographs that combcn_core/networks/weights/README.md names, and nothing else
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

# What is missing in a hole can mostly not be known, so a clip says little of what can: batches have
# to be large, rates low. Such narrow networks gain nothing from a second core: what can be is
# trained side by side.
export OMP_NUM_THREADS=1
settings=(--ema 0.998 --precision fp32 --workers 1 --batch 32 --coarsest 3)
small=("${settings[@]}" --channel-divisor 4 --size 64 --fills smooth --repeats 8 --learning-rate 3e-4
    --warmup-steps 30 --decay-share 0.3 --calibration-clips 0 --save-every 100 --sample-every 300)
large=("${settings[@]}" --size 128 --clip-length 8 --holes box moving-box blob object
    --repeats 4 --detail-frames 1)
both=("${large[@]}" --fills smooth rest propagate --learning-rate 2e-4 --steps 130
    --warmup-steps 15 --decay-share 0.6 --calibration-clips 200 --save-every 20 --sample-every 100)
last=("${large[@]}" --fills rest propagate --learning-rate 1e-4 --steps 150
    --warmup-steps 10 --decay-share 0.7 --calibration-clips 200 --save-every 20 --sample-every 1000)

side_by_side() { # side_by_side FUNCTION FUNCTION: fails if one of them does
    "$1" & local first=$!
    "$2" & local second=$!
    wait "$first" && wait "$second"
}

train_2dcn() { # single frames: those of one clip teach it much the same
    combcn train "$footage" --output "${name}_2dcn_small.safetensors" "${small[@]}" \
        --no-guidance --mode scratch --clip-length 1 --holes box blob object --steps 1100
    # Larger, since dilations of 16 at a quarter of the size saw only padding so far; and with what
    # the pipeline leaves.
    combcn train "$footage" --output "${name}_2dcn_alone.safetensors" "${large[@]}" \
        --fills smooth rest propagate --learning-rate 2e-4 --steps 200 --warmup-steps 30 \
        --decay-share 0.3 --calibration-clips 0 --save-every 100 --sample-every 100 \
        --mode scratch --start "${name}_2dcn_small.safetensors"
}
train_3dcn() {
    combcn train "$footage" --output "${name}_3dcn.safetensors" "${small[@]}" \
        --mode pretrain --clip-length 8 --holes box moving-box blob object --steps 1000
}
train_both() { # end to end, in the end on what the pipeline leaves and nothing else
    combcn train "$footage" --output "${name}_both.safetensors" "${both[@]}" \
        --start "${name}_3dcn.safetensors" --start-detail "${name}_2dcn_alone.safetensors"
    combcn train "$footage" --output "$output" "${last[@]}" --steady-frames 8 --half \
        --start "${name}_both.safetensors"
}
go_on_with_2dcn() { # for comparison
    combcn train "$footage" --output "${name}_2dcn_both.safetensors" "${both[@]}" \
        --mode scratch --start "${name}_2dcn_alone.safetensors"
    combcn train "$footage" --output "${name}_2dcn.safetensors" "${last[@]}" \
        --mode scratch --start "${name}_2dcn_both.safetensors"
}

side_by_side train_2dcn train_3dcn
side_by_side train_both go_on_with_2dcn
