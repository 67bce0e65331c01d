#!/usr/bin/env bash
# Makes the policy that ships, from the simulators and nothing else: bash recipes/shipped/make.sh FOLDER
# The same command goes on where it was interrupted. Each step and its seconds are in FOLDER/make.log, the policy in FOLDER/qwen-vla.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
cp "$here"/*.toml .
export OMP_NUM_THREADS=1

step() { # run a command, and write down what it was, when it began, and how long it took this time
    local began=$SECONDS
    echo "$(date -u +%FT%TZ) begins: $*" >> make.log
    "$@"
    echo "$(date -u +%FT%TZ) $((SECONDS - began)) s: $*" >> make.log
}

record() { # SUITE EPISODES: demonstrations of each task by its expert, which bursts of noise push off the way
    step vlarig data record "$1" --policy expert --episodes "$2" --policy-options disturbance=0.7 --to "$1"
}

look() { # SUITE: eight frames of each of its demonstrations, with instructions, and where the objects are that these name
    step vlarig data render-questions "$1" --recording "$1" --scenes 1000 --frames 8 --instructions 1 --questions 0 --size 128 \
        --to "moments/$1"
}

train() { # STAGE NAME: by NAME.toml, to the folder NAME
    step torchrun --standalone --nproc-per-node 2 -m -- vlarig.harness train "$1" --run "$2" --config "$2.toml" \
        --override "model.compute=$(cat compute)" shard_over=1
}

# What the first machine multiplies matrices faster in: in bfloat16 some CPUs take a third of the time, and others nine times as long.
[ -e compute ] || python - > compute << 'EOF'
import time

import torch


def seconds(dtype):
    one, other = torch.rand(1024, 192).to(dtype), torch.rand(192, 640).to(dtype)
    one @ other
    began = time.perf_counter()
    for _ in range(100):
        one @ other
    return time.perf_counter() - began


torch.set_num_threads(1)
print("bfloat16" if seconds(torch.bfloat16) < seconds(torch.float32) / 1.5 else "float32")
EOF

record tabletop 240
record simpler_widowx 160
record libero_object 6
look tabletop
look simpler_widowx
look libero_object
step vlarig data render-questions tabletop --scenes 20000 --instructions 3 --questions 0 --size 128 --to scenes/tabletop
step vlarig data render-questions simpler_widowx --scenes 6000 --instructions 1 --questions 0 --size 128 --to scenes/simpler_widowx

train backbone tower
train backbone language
train backbone backbone
train t2a t2a
train t2a last_t2a
train backbone last

rm -rf qwen-vla
step vlarig policy convert last/policy --dtype bfloat16 --n-action-steps 8 --out qwen-vla
{
    echo "command:  bash recipes/shipped/make.sh FOLDER"
    echo "revision: $(git -C "$here" describe --always --dirty --abbrev=40)"
    echo
    echo "Seconds of each step:"
    cat make.log
    echo
    echo "SHA-256 of each data set: of the lines of sha256sum, for its files in the order of their names:"
    for data in tabletop simpler_widowx libero_object moments/* scenes/*; do
        files="$(find "$data" -type f ! -path "*/run/*" ! -path "*/staging/*" | LC_ALL=C sort)"
        echo "$(xargs -d '\n' sha256sum <<< "$files" | sha256sum | cut -d ' ' -f 1)  $data"
    done
} > qwen-vla/made.txt
