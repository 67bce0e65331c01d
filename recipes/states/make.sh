#!/usr/bin/env bash
# Reinforcement learning without images, from the simulator and nothing else: bash recipes/states/make.sh FOLDER [SEED ...]
# A policy is cloned from a scripted expert, then tuned by its successes alone, once for each seed; the seed "shuffled" is a control, with
# rewards assigned to the episodes at random. All play the same episodes; FOLDER/measured says how each differs from the clone, and
# has its success by iteration, which ../ppo/curves.py plots.
# The same command goes on where it was interrupted.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
shift
cp "$here"/*.toml .
export OMP_NUM_THREADS=1

play() { # POLICY RUN: each of the 50 initial states four or five times
    vlarig sweep tabletop_states --tasks pick_into --policy "qwen-vla:$1" --n-action-steps 8 --episodes 240 --run "$2"
}

vlarig data record tabletop_states --tasks pick_into --policy expert --episodes 400 --policy-options disturbance=0.7 --to tabletop_states
torchrun --standalone --nproc-per-node 2 -m -- vlarig.harness train sft --run clone --config clone.toml
play clone/policy measured/clone
for seed in "${@:-0}"; do
    # A discount would pay episodes that end sooner, which are those that succeed, whatever their rewards.
    if [ "$seed" = shuffled ]; then settings=(ppo.shuffle_rewards=true ppo.gamma=1); else settings=("seed=$seed"); fi
    vlarig train ppo --run "ppo-$seed" --config ppo.toml --override "${settings[@]}"
    play "ppo-$seed/policy" "measured/ppo-$seed"
    vlarig compare measured/clone "measured/ppo-$seed" > "measured/ppo-$seed.txt"
    python "$here/../ppo/curves.py" keep "ppo-$seed" "measured/ppo-$seed.csv"
done
vlarig table measured/*/
