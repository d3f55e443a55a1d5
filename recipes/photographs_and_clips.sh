#!/usr/bin/env bash
# The next default weights: bash recipes/photographs_and_clips.sh DATA OUTPUT.safetensors
# DATA is what recipes/footage.py lays out. One process on one core; stopped and started again it
# goes on. Beside OUTPUT come to lie the networks that were trained alone, and OUTPUT's 2DCN: the
# same second network after the same steps, without guidance, for benchmarks/paper_table.py.
# The weights that come with CombCN are still those of default_weights.sh. This has not been run in
# one go yet: in the run so far some steps of the last stage came before `guided`, which is how it
# showed that CombCN hardly uses its guidance unless it is made to.
set -euo pipefail
output=$2 name=${2%.safetensors}
footage=${name}_footage
python "$(dirname "$0")/footage.py" "$1" "$footage" # what is there already is kept

export OMP_NUM_THREADS=1
settings=(--workers 0 --save-every 50 --sample-every 100)
train() { # train NAME DATA OPTION ...
    combcn train "$footage/$2" --output "${name}_$1.safetensors" "${settings[@]}" "${@:3}"
}

# 2DCN on single frames, the cheapest that there is to learn from. With rates falling to 0 at last:
# half of what is learnt shows only then.
frames=(--mode scratch --clip-length 1 --holes box blob object --fills smooth --calibration-clips 0)
train 2dcn_64 all "${frames[@]}" --no-guidance --channel-divisor 4 --size 64 --batch 32 \
    --repeats 4 --learning-rate 5e-4 --decay-share 0.2 --precision fp32 --steps 4000
train 2dcn_128 all "${frames[@]}" --start "${name}_2dcn_64.safetensors" --size 128 --batch 16 \
    --repeats 4 --learning-rate 5e-4 --decay-share 0.2 --precision fp32 --steps 2600
train 2dcn_photographs all "${frames[@]}" --start "${name}_2dcn_128.safetensors" --size 128 --batch 16 \
    --repeats 3 --learning-rate 4e-4 --warmup-steps 50 --decay-share 0.6 --precision fp32 --steps 3600
train 2dcn_alone all "${frames[@]}" --start "${name}_2dcn_photographs.safetensors" --size 128 \
    --batch 16 --repeats 4 --learning-rate 4e-4 --warmup-steps 20 --decay-share 0.5 --ema 0.997 \
    --precision bf16 --seed 23 --steps 400

# 3DCN on clips: to copy from the frames nearby, which boxes in other places teach at once.
motion=(--mode pretrain --clip-length 8 --ema 0.995 --precision bf16 --calibration-clips 0)
train 3dcn_64 clips "${motion[@]}" --channel-divisor 4 --size 64 --batch 32 --repeats 10 \
    --holes random-box random-box moving-box object box --fills smooth --coarsest 2.4 \
    --learning-rate 1e-3 --warmup-steps 50 --decay-share 0.4 --seed 21 --steps 1000
train 3dcn clips "${motion[@]}" --start "${name}_3dcn_64.safetensors" --size 128 --batch 16 \
    --holes random-box random-box moving-box object box blob --fills smooth rest --coarsest 3 \
    --repeats 8 --learning-rate 5e-4 --warmup-steps 20 --decay-share 0.5 --seed 22 --steps 300

# CombCN joins it. Guidance starts at zero, and where a smooth fill and what lies around the hole say
# nearly as much, it stays there; so first come clips where guidance knows far more.
train guided clips --mode frozen --size 64 --clip-length 8 --batch 32 --detail-frames 2 --repeats 8 \
    --holes random-box random-box random-box moving-box object --fills smooth --coarsest 2 \
    --learning-rate 1e-3 --warmup-steps 20 --decay-share 0.4 --ema 0.99 --precision bf16 \
    --calibration-clips 0 --seed 25 --steps 260 \
    --start "${name}_3dcn.safetensors" --start-detail "${name}_2dcn_alone.safetensors"

# End to end, on what the pipeline leaves.
both=(--size 128 --clip-length 8 --batch 10 --detail-frames 2 --repeats 5
    --holes box random-box random-box moving-box blob object --fills smooth rest propagate
    --learning-rate 3e-4 --warmup-steps 10 --decay-share 0.8 --ema 0.99 --precision bf16
    --calibration-clips 200 --half --seed 26 --steps 1100)
train both clips "${both[@]}" --mode joint --coarsest 2.6 --start "${name}_guided.safetensors"
train 2dcn clips "${both[@]}" --mode scratch --start "${name}_2dcn_alone.safetensors"
cp "${name}_both.safetensors" "$output"
