#!/usr/bin/env bash
# Reinforcement learning without images, from the simulator and nothing else: bash recipes/states/make.sh FOLDER [SEED ...]
# A policy is cloned from a scripted expert, then tuned by its successes alone, once for each seed, as ../ppo/make.sh says.
# The same command goes on where it was interrupted.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
shift
cp "$here"/*.toml .
export OMP_NUM_THREADS=1

vlarig data record tabletop_states --tasks pick_into --policy expert --episodes 400 --policy-options disturbance=0.7 --to tabletop_states
torchrun --standalone --nproc-per-node 2 -m -- vlarig.harness train sft --run clone --config clone.toml
START=clone/policy ITERATIONS="${ITERATIONS:-32}" bash "$here/../ppo/make.sh" . ppo.toml tabletop_states pick_into 8 "$@"
vlarig table measured/*/
