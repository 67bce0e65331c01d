#!/usr/bin/env bash
# Tunes the shipped policy in one task by its successes alone: bash recipes/ppo/make.sh FOLDER CONFIG SUITE TASK [SEED ...]
# CONFIG is that of `vlarig train ppo`: simpler for simpler_widowx, tabletop.toml (beside this file) for tabletop. Once for each seed; the seed
# "shuffled" is a control, with rewards dealt to the episodes by chance. All play the same 240 episodes, from initial states that are not
# rolled out. The same command goes on where it was interrupted. FOLDER/measured has the runs, and how each differs from the start.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
config="$2" suite="$3" task="$4"
shift 4
cp "$here"/*.toml .
export OMP_NUM_THREADS=1

play() { # POLICY RUN
    vlarig sweep "$suite" --tasks "$task" --policy "$1" --episodes 240 --run "measured/$2"
}

play qwen-vla "$task-start"
for seed in "${@:-0}"; do
    if [ "$seed" = shuffled ]; then settings=(ppo.shuffle_rewards=true); else settings=("seed=$seed"); fi
    vlarig train ppo --run "$task-$seed" --config "$config" --override "rollout.tasks=[\"$task\"]" iterations=40 \
        "evaluation.options={episodes = 48}" "${settings[@]}"
    play "qwen-vla:$task-$seed/policy" "$task-$seed"
    vlarig compare "measured/$task-start" "measured/$task-$seed" > "measured/$task-$seed.txt"
done
