#!/usr/bin/env bash
# Train on this machine with the deepspeed launcher, on N processes:
#   launch/workstation.sh EXPERIMENT.yaml [N] [key=value ...]
# N is by default the number of GPUs, or 1 where there is none (then gloo and CPUs do the work).
# CUDA_VISIBLE_DEVICES=2,3 takes these GPUs, and of them the first N.
# Ctrl-C saves and stops, a second one stops at once; the same command again goes on.
set -uo pipefail
usage="usage: launch/workstation.sh EXPERIMENT.yaml [N] [key=value ...]"
experiment=${1:?$usage}
shift
python=${SRCT_PYTHON:-python3}
count=
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    count=$1
    shift
fi
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
if ((gpus)) && [[ ${CUDA_VISIBLE_DEVICES:-} ]]; then
    [[ $CUDA_VISIBLE_DEVICES =~ ^[0-9]+(,[0-9]+)*$ ]] || {
        echo "error: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: expected numbers, as 0,1" >&2
        exit 2
    }
    IFS=, read -ra visible <<<"$CUDA_VISIBLE_DEVICES"
    ((${count:=${#visible[@]}} <= ${#visible[@]})) || {
        echo "error: $count processes, but CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES" >&2
        exit 2
    }
    # Told a number of processes, the launcher would take the first GPUs of the machine instead.
    devices=(--include "localhost:$(IFS=, && echo "${visible[*]:0:count}")")
    unset CUDA_VISIBLE_DEVICES
else
    devices=(--num_accelerators "${count:=$((gpus > 0 ? gpus : 1))}")
fi
run=$("$python" -m hpc_srct.sweeps.restarts folder "$experiment" "$@") || exit
resume=$("$python" -m hpc_srct.sweeps.restarts before "$run") || exit
port=$("$python" -c 'from hpc_srct.ranks import free_port; print(free_port())') || exit

# In a session of its own: the launcher would answer Ctrl-C by killing the ranks that save.
setsid "$python" -m deepspeed.launcher.runner "${devices[@]}" --master_port "$port" \
    --module hpc_srct train "$experiment" --run-dir "$run" $resume "$@" &
launcher=$!
stop() {
    told=yes
    echo "stopping: the state is being saved ..." >&2
    local place fields words session
    for place in /proc/[0-9]*; do # pkill is not everywhere
        { fields=$(<"$place/stat") && words=$(tr '\0' ' ' <"$place/cmdline"); } 2>/dev/null || continue
        read -r _ _ _ session _ <<<"${fields##*) }"
        if [[ $session == "$launcher" && $words == *'-m hpc_srct --local_rank'* ]]; then
            kill -INT "${place#/proc/}"
        fi
    done
}
trap stop INT TERM
while true; do
    told=
    wait "$launcher"
    code=$?
    [[ $told ]] || break # else it was the signal that ended the wait
done
case $code in
    0) ;;
    75) echo "stopped with its state saved in $run; the same command goes on." >&2 ;;
    *) echo "ended with code $code; what is saved in $run stays, the same command goes on." >&2 ;;
esac
exit "$code"
