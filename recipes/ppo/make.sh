#!/usr/bin/env bash
# Tunes a policy in tasks by its successes alone: bash recipes/ppo/make.sh FOLDER CONFIG SUITE TASKS STEPS [SEED ...]
# CONFIG is that of `vlarig train ppo`: simpler for SimplerEnv, or placing.toml or tabletop.toml, which are beside this file. TASKS are
# separated by commas; the harder a task was at the start, the more envs it gets. STEPS of each chunk are run. Once for each seed; the
# seed "shuffled" is a control, with rewards assigned to the episodes at random. All play the same EPISODES of each task, by default
# 240, from initial states that are not rolled out. In the environment, ITERATIONS are 20 and ENVS 32 unless it says otherwise, START is
# the checkpoint's folder that is tuned (by default the shipped policy is, else e.g. what clone.sh or few_shot.sh makes), PROTOCOL is
# measured, ROLLED is rolled out, and SETTINGS are further ones of CONFIG, such as optimizer.expert.lr=1e-5. By default the suite's first
# protocol is measured, and its own for learning is rolled out, in which episodes end at their first success. SimplerEnv's first averages
# overlapping chunks, so name chunked where fewer steps are run than the policy predicts. SimplerEnv's tasks are also measured from
# new_states.py, 240 states like those that are rolled out: its protocols have few states, and of a long object two turns alone.
# The same command goes on where it was interrupted. FOLDER/measured has the runs, how each differs from the start, and its success by
# iteration, which curves.py plots.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1"
cd "$1"
config="$2" suite="$3" tasks="$4" steps="$5"
if [[ "$tasks" = *,* ]]; then name="$suite"; else name="$tasks"; fi
shift 5
[ ! -e "$here/$config" ] || cp "$here/$config" .
cp "$here/new_states.py" .
export OMP_NUM_THREADS=1

play() { # POLICY RUN
    vlarig sweep "$suite" --tasks ${tasks//,/ } --policy "$1" ${PROTOCOL:+--protocol "$PROTOCOL"} --n-action-steps "$steps" \
        --episodes "${EPISODES:-240}" --run "measured/$2"
    if [ "$suite" = simpler_widowx ]; then
        vlarig sweep new_states:NEW_STATES --tasks ${tasks//,/ } --policy "$1" --protocol chunked --n-action-steps "$steps" \
            --episodes "${EPISODES:-240}" --run "measured/$2-new_states"
    fi
}

play "qwen-vla${START:+:$START}" "$name-start"
for seed in "${@:-0}"; do
    # A discount would pay episodes that end sooner, which are those that succeed, whatever their rewards.
    if [ "$seed" = shuffled ]; then settings=(ppo.shuffle_rewards=true ppo.gamma=1); else settings=("seed=$seed"); fi
    if [ -n "${PROTOCOL:-}" ]; then settings+=("evaluation.options.protocol=$PROTOCOL"); fi
    if [ -n "${ROLLED:-}" ]; then settings+=("rollout.protocols.$suite=$ROLLED"); fi
    if [ -n "${START:-}" ]; then settings+=("model.source=$START" model.any_checkpoint=true); fi
    vlarig train ppo --run "$name-$seed" --config "$config" --override "rollout.suites=[$suite]" "rollout.tasks=[$tasks]" \
        "evaluation.suites=[$suite]" "rollout.success=measured/$name-start" "rollout.n_action_steps=$steps" "rollout.envs=${ENVS:-32}" "iterations=${ITERATIONS:-20}" \
        evaluation.options.episodes=48 "${settings[@]}" ${SETTINGS:-}
    play "qwen-vla:$name-$seed/policy" "$name-$seed"
    for start in "measured/$name-start" "measured/$name-start-new_states"; do
        run="${start/start/$seed}"
        [ ! -e "$start" ] || vlarig compare "$start" "$run" > "$run.txt"
    done
    python "$here/curves.py" keep "$name-$seed" "measured/$name-$seed.csv"
done
