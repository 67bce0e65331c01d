#!/usr/bin/env bash
# Measures what make.sh made, in the same folder: bash recipes/shipped/measure.sh FOLDER
# The policy on initial states that decided no choice, beside those of its training and in other words; what it reads of SimplerEnv's
# scenes that it has not seen; after SFT, with T2A before it and without, on tabletop; two more seeds of the action expert's stage.
# FOLDER/measured has the tables.
# The same command goes on where it was interrupted.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$1"
export OMP_NUM_THREADS=1
mkdir -p measured

train() { # STAGE RUN CONFIG OVERRIDES...
    torchrun --standalone --nproc-per-node 2 -m -- vlarig.harness train "$1" --run "$2" --config "$3" \
        --override "model.compute=$(cat compute)" shard_over=1 "${@:4}"
}

steps=8 # of a chunk's 16 that are run
sweep() { # NAME POLICY SUITE OPTIONS...
    vlarig sweep "$3" --policy "$2" --n-action-steps "$steps" --run "sweeps/$1" "${@:4}"
}

sweep shipped qwen-vla:qwen-vla tabletop --episodes 50
python "$here/pair.py" sweeps/shipped > measured/pair.txt
vlarig data render-questions simpler_widowx --scenes 400 --instructions 1 --questions 0 --size 128 --seed 1 --to measured/unseen
python "$here/reading.py" measured/unseen qwen-vla > measured/reading.txt
sweep training qwen-vla:qwen-vla tabletop --episodes 50 --initial-states training
sweep paraphrased qwen-vla:qwen-vla tabletop --episodes 20 --protocol paraphrased
sweep simpler qwen-vla:qwen-vla simpler_widowx --episodes 48
sweep libero qwen-vla:qwen-vla libero_object --episodes 10
steps=4
sweep four qwen-vla:qwen-vla tabletop --episodes 50
sweep simpler-four qwen-vla:qwen-vla simpler_widowx --episodes 48
sweep libero-four qwen-vla:qwen-vla libero_object --episodes 10
steps=8
sweep t2a qwen-vla:t2a/policy tabletop --episodes 20
train sft sft sft.toml
sweep sft qwen-vla:sft/policy tabletop --episodes 20
train sft without_t2a sft.toml model.source=backbone/policy
sweep without-t2a qwen-vla:without_t2a/policy tabletop --episodes 20
for seed in 1 2; do
    train t2a "t2a-$seed" t2a.toml "seed=$seed"
    sweep "seed-$seed" "qwen-vla:t2a-$seed/policy" tabletop --episodes 20
done
vlarig table "shipped=sweeps/shipped" "4 steps run=sweeps/four" "where it was trained=sweeps/training" \
    "in other words=sweeps/paraphrased" "T2A=sweeps/t2a" "another seed=sweeps/seed-1" "a third=sweeps/seed-2" "+ SFT=sweeps/sft" \
    "SFT without T2A=sweeps/without-t2a" --format markdown > measured/tabletop.md
vlarig table sweeps/simpler sweeps/simpler-four sweeps/libero sweeps/libero-four --format markdown > measured/others.md
