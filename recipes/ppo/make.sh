#!/usr/bin/env bash
# Tunes the shipped policy in one task by its successes alone: bash recipes/ppo/make.sh FOLDER TASK [SEED ...]
# TASK is the name of a configuration beside this file. Once for each seed, and once with rewards dealt to the episodes by chance (the seed
# "shuffled"); all play the same 240 episodes, from initial states that are not rolled out.
# The same command goes on where it was interrupted. FOLDER/measured has the runs, and how each differs from the start.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
task="$2"
shift 2
cp "$here/$task.toml" .
suite="$(sed -n 's/^suites = \["\(.*\)"\]/\1/p' "$task.toml" | head -1)"
export OMP_NUM_THREADS=1

play() { # POLICY RUN
    vlarig sweep "$suite" --tasks "$task" --policy "$1" --n-action-steps 8 --episodes 240 --run "measured/$2"
}

play qwen-vla "$task-start"
for seed in "${@:-0}"; do
    if [ "$seed" = shuffled ]; then settings=(ppo.shuffle_rewards=true); else settings=("seed=$seed"); fi
    vlarig train ppo --run "$task-$seed" --config "$task.toml" --override "${settings[@]}"
    play "qwen-vla:$task-$seed/policy" "$task-$seed"
    vlarig compare "measured/$task-start" "measured/$task-$seed" > "measured/$task-$seed.txt"
done
