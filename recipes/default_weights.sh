#!/usr/bin/env bash
# The weights that come with CombCN: bash recipes/default_weights.sh DATA OUTPUT.safetensors
# DATA is what recipes/footage.py reads. One process on one core; stopped and started again it goes
# on. Beside OUTPUT come to lie the networks of the other stages, and OUTPUT's 2DCN: the same second
# network without guidance, for benchmarks/paper_table.py.
# The stages were run one after another by hand, in this order and with these settings, over two
# days; this script as a whole was not. Where a stage was cut short, a comment says so.
set -euo pipefail
data=$1 output=$2 name=${2%.safetensors}
footage=${name}_footage
python "$(dirname "$0")/footage.py" "$data" "$footage" # what is there already is kept

export OMP_NUM_THREADS=1
settings=(--workers 0 --save-every 50 --sample-every 100)
train() { # train NAME FOLDER OPTION ...
    combcn train "$2" --output "${name}_$1.safetensors" "${settings[@]}" "${@:3}"
}

# 2DCN on single frames, the cheapest that there is to learn from; first on all photographs, in the
# first of these stages 401 of the 449. With rates falling to 0 at last: half of what is learnt shows
# only then.
frames=(--mode scratch --clip-length 1 --holes box blob object --fills smooth --calibration-clips 0)
train 2dcn_64 "$data/photos" "${frames[@]}" --no-guidance --channel-divisor 4 --size 64 --batch 32 \
    --repeats 4 --learning-rate 5e-4 --decay-share 0.2 --precision fp32 --steps 4000
train 2dcn_128 "$data/photos" "${frames[@]}" --start "${name}_2dcn_64.safetensors" --size 128 \
    --batch 16 --repeats 4 --learning-rate 5e-4 --decay-share 0.2 --precision fp32 --steps 2600
train 2dcn_photographs "$data/photos" "${frames[@]}" --start "${name}_2dcn_128.safetensors" \
    --size 128 --batch 16 --repeats 3 --learning-rate 4e-4 --warmup-steps 50 --decay-share 0.6 \
    --precision fp32 --steps 3600
train 2dcn_alone "$footage/all" "${frames[@]}" --start "${name}_2dcn_photographs.safetensors" \
    --size 128 --batch 16 --repeats 4 --learning-rate 4e-4 --warmup-steps 20 --decay-share 0.5 \
    --ema 0.997 --precision bf16 --seed 23 --steps 400

# 3DCN on clips: to copy from the frames nearby, which boxes in other places teach at once.
clips=$footage/clips
motion=(--mode pretrain --clip-length 8 --ema 0.995 --precision bf16 --calibration-clips 0)
train 3dcn_64 "$clips" "${motion[@]}" --channel-divisor 4 --size 64 --batch 32 --repeats 10 \
    --holes random-box random-box moving-box object box --fills smooth --coarsest 2.4 \
    --learning-rate 1e-3 --warmup-steps 50 --decay-share 0.4 --seed 21 --steps 1000
train 3dcn "$clips" "${motion[@]}" --start "${name}_3dcn_64.safetensors" --size 128 --batch 16 \
    --holes random-box random-box moving-box object box blob --fills smooth rest --coarsest 3 \
    --repeats 8 --learning-rate 5e-4 --warmup-steps 20 --decay-share 0.5 --seed 22 --steps 300

# CombCN joins it. This was to be 1,100 steps with --decay-share 0.6 and was stopped after 502, when the
# rate had fallen by a tenth: CombCN hardly used its guidance, which starts at zero.
both=(--mode joint --clip-length 8 --repeats 5 --coarsest 2.6 --precision bf16)
train joined "$clips" "${both[@]}" --size 128 --batch 10 --detail-frames 2 \
    --holes box random-box random-box moving-box blob object --fills smooth rest rest propagate \
    --learning-rate 4e-4 --warmup-steps 50 --decay-share 0 --ema 0.997 --calibration-clips 0 \
    --seed 24 --steps 502 \
    --start "${name}_3dcn.safetensors" --start-detail "${name}_2dcn_alone.safetensors"
# So come clips where guidance knows far more than what lies around the hole, with 3DCN as it is.
train guided "$clips" --mode frozen --size 64 --clip-length 8 --batch 32 --detail-frames 2 \
    --repeats 8 --holes random-box random-box random-box moving-box object --fills smooth \
    --coarsest 2 --learning-rate 1e-3 --warmup-steps 20 --decay-share 0.4 --ema 0.99 \
    --precision bf16 --calibration-clips 0 --seed 25 --steps 260 --start "${name}_joined.safetensors"

# End to end, on what the pipeline leaves; then with more holes that stay in place.
both+=(--calibration-clips 200 --half)
train both_1 "$clips" "${both[@]}" --size 128 --batch 10 --detail-frames 2 \
    --holes box random-box random-box moving-box blob object --fills smooth rest propagate \
    --learning-rate 3e-4 --warmup-steps 10 --decay-share 0.8 --ema 0.99 --seed 26 --steps 350 \
    --start "${name}_guided.safetensors"
train both_2 "$clips" "${both[@]}" --size 128 --batch 10 --detail-frames 2 \
    --holes box box random-box random-box moving-box blob object --fills smooth rest propagate \
    --learning-rate 4e-4 --warmup-steps 20 --decay-share 0.5 --ema 0.995 --seed 27 --steps 3400 \
    --start "${name}_both_1.safetensors"
mixed=(--detail-frames 3 --fills smooth smooth rest propagate --learning-rate 3e-4
    --warmup-steps 30 --decay-share 0.6 --ema 0.997)
train both_3 "$clips" "${both[@]}" "${mixed[@]}" --size 128 --batch 12 \
    --holes box box random-box moving-box blob object --seed 28 --steps 5000 \
    --start "${name}_both_2.safetensors"

# Boxes in frames of 240 rows are as large as those crops; without this they came out worse than
# without networks. Up to step 719 this was to be 4,000 steps, so that the rate stayed at 3e-4.
# --steady-frames is of use only; it was chosen on clips held back.
train both "$clips" "${both[@]}" "${mixed[@]}" --size 192 --batch 6 --steady-frames 8 \
    --holes box box moving-box blob blob object random-box --seed 30 --steps 1300 \
    --start "${name}_both_3.safetensors"
cp "${name}_both.safetensors" "$output"

# For comparison, 2DCN after as many steps as those from `joined` to `both_3`. Run with --steps 3200, by
# which REPRODUCTION.md has it.
train 2dcn "$clips" "${both[@]}" "${mixed[@]}" --mode scratch --size 128 --batch 12 \
    --holes box box random-box moving-box blob object --seed 29 --steps 9500 \
    --start "${name}_2dcn_photographs.safetensors"
