#!/usr/bin/env bash
# A policy of SimplerEnv that has much to learn, for make.sh: bash recipes/ppo/clone.sh FOLDER STEPS [TASK ...]
# It sees as the shipped policy does, and its action expert learned these tasks, by default all four, for so few STEPS of T2A: 220 of
# two tasks take some two minutes. It is FOLDER/clone/policy.
# The same command goes on where it was interrupted.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
steps="${2:?name the folder and the steps of T2A, as in: clone.sh FOLDER 220 put_eggplant_in_basket}"
mkdir -p "$1"
cd "$1"
shift 2
cp "$here"/clone*.toml .
export OMP_NUM_THREADS=1

vlarig data record simpler_widowx --policy expert --episodes 30 ${1:+--tasks "$@"} --policy-options disturbance=0.7 \
    --to simpler_widowx
[ -e fresh/model.safetensors ] || python "$here/fresh_expert.py" fresh
vlarig train t2a --run clone --config clone.toml --override "steps=$steps"
