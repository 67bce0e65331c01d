#!/usr/bin/env bash
# Tunes the shipped policy in two suites at once, by 128 envs that two env servers lend: bash recipes/ppo/machines.sh FOLDER
# The servers require a token and encrypt; here both are on this machine. In the third iteration one of them is killed and begun again.
# Envs are allotted by the success of a sweep before.
set -euo pipefail
mkdir -p "$1"
cd "$1"
export OMP_NUM_THREADS=1
suites=(simpler_widowx tabletop)

if [ ! -f node.pem ]; then
    python -c "import secrets; print(secrets.token_urlsafe(32))" > token
    chmod 600 token
    openssl req -x509 -newkey rsa:2048 -nodes -keyout node.key -out node.pem -days 30 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost 2> /dev/null
fi

serve() { # PORT
    vlarig serve envs "${suites[@]}" --host localhost --port "$1" --token-file token --certificate node.pem --key node.key \
        --workers 2 --logs "logs-$1" >> "server-$1.log" 2>&1 &
}

vlarig sweep "${suites[@]}" --policy qwen-vla --episodes 24 --run start
serve 8771
first=$!
serve 8772
second=$!
trap 'kill $first $second' EXIT
vlarig train ppo --run ppo --override iterations=4 rollout.suites="[simpler_widowx, tabletop]" rollout.success=start rollout.epochs=1 \
    rollout.hosts="[wss://localhost:8771, wss://localhost:8772]" rollout.hosts_token_file=token rollout.hosts_ca_file=node.pem \
    rollout.form=noise_one rollout.temperature=0.6 ppo.minibatch=512 optimizer.expert.lr=1e-5 \
    evaluation.suites="[simpler_widowx, tabletop]" evaluation.every=2 "evaluation.options={episodes = 4}" &
training=$!
until [ -d ppo/checkpoints/step-00000002 ]; do sleep 5; kill -0 $training; done
sleep 30
kill -9 $first
sleep 20
serve 8771
first=$!
wait $training
