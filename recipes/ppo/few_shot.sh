#!/usr/bin/env bash
# The shipped policy after a few demonstrations of a goal beside an object, for make.sh: bash recipes/ppo/few_shot.sh FOLDER
# It sees some 56 times that the carrot is put in front of the plate, and trains for five minutes. It is FOLDER/few_shot/policy.
# The same command goes on where it was interrupted.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
cp "$here"/few_shot*.toml .
export OMP_NUM_THREADS=1

vlarig data record simpler_ood --policy expert --episodes 64 --tasks PutFront --policy-options disturbance=0.7 --to simpler_ood
vlarig train sft --run few_shot --config few_shot.toml
