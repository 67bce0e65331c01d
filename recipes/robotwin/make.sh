#!/usr/bin/env bash
# Table 12 of the paper: three policies that are shown the joints in another place each, from the checkpoint of CPT in `cpt`.
# Give a folder to work in; its demonstrations and checkpoints stay there. On GPUs: the numbers of steps are not for two cores.
set -euo pipefail
recipes=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?a folder}" && cd "$1"
cp "$recipes"/*.toml .
vlarig data record robotwin_easy --policy expert --episodes 50 --to robotwin_easy
vlarig data record robotwin_hard --policy expert --episodes 50 --to robotwin_hard
for state in none prompt dit; do
    vlarig train sft --config "state_$state.toml" --run "state_$state"
    vlarig sweep robotwin_easy robotwin_hard --policy "qwen-vla:state_$state/policy"
done
