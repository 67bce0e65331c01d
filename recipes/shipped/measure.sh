#!/usr/bin/env bash
# Measures what make.sh made, in the same folder: bash recipes/shipped/measure.sh FOLDER
# Each stage's policy on every suite; the last one also where it was trained, and in other words; answers to held-out questions.
# The same command goes on where it was interrupted. FOLDER/measured has the tables: rows are stages, as in Table 11, columns tasks.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$1"
export OMP_NUM_THREADS=1
mkdir -p measured
suites="tabletop simpler_widowx libero_object libero_spatial"

sweep() { # NAME POLICY SUITE OPTIONS...: 8 of a chunk's 16 steps are run
    vlarig sweep "$3" --policy "$2" --n-action-steps 8 --run "sweeps/$1-$3" "${@:4}"
}

options() { # SUITE: its episodes of each task, and SimplerEnv's protocol that runs chunks as they are
    case $1 in
        tabletop) echo --episodes 20 ;;
        simpler_widowx) echo --episodes 24 --protocol chunked ;;
        *) echo --episodes 5 ;;
    esac
}

for suite in $suites; do
    read -ra chosen <<< "$(options "$suite")"
    for stage in cpt sft expert; do
        sweep "$stage" "qwen-vla:$stage/policy" "$suite" "${chosen[@]}"
    done
    sweep training qwen-vla:expert/policy "$suite" "${chosen[@]}" --initial-states training
    vlarig table "CPT=sweeps/cpt-$suite" "+ SFT=sweeps/sft-$suite" "+ SFT of the expert alone=sweeps/expert-$suite" \
        "the same, where it was trained=sweeps/training-$suite" --format markdown > "measured/$suite.md"
    vlarig compare "sweeps/cpt-$suite" "sweeps/sft-$suite" > "measured/$suite-sft.txt"
    vlarig compare "sweeps/sft-$suite" "sweeps/expert-$suite" > "measured/$suite-expert.txt"
    for stage in backbone cpt sft; do
        vlarig data score "held_out/$suite" --model "$stage/policy" --to "measured/$suite-$stage.jsonl" > "measured/$suite-$stage.txt"
    done
done
sweep paraphrased qwen-vla:expert/policy tabletop --episodes 20 --protocol paraphrased
vlarig table the-words-it-was-trained-on=sweeps/expert-tabletop other-words=sweeps/paraphrased-tabletop --format markdown \
    > measured/paraphrased.md
python "$here/pair.py" sweeps/expert-tabletop > measured/pair.txt
