#!/usr/bin/env bash
# A run on a Cloud TPU: makes the TPU or takes the one of that name, brings this checkout there, runs
# ec_jax.main on all its machines, and goes on after a preemption.
#
#   launch/tpu_pod.sh --name=ec --zone=us-central1-a --type=v5litepod-16 --spot \
#       --setup='sudo mkdir -p /mnt/runs && sudo mount 10.0.0.2:/runs /mnt/runs' \
#       --collect=runs -- --config=configs/digits.py --workdir=/mnt/runs/digits
#
# What follows -- are flags of ec_jax.main. The machines join by what the TPU tells them
# (parallel.coordinator=auto). The workdir lies on storage that all of them mount (--setup): it holds
# their common checkpoints, and it must outlive a TPU that is preempted. A TPU of one machine can
# use its own disk, at the price of a start from nothing after a preemption.
#
#   --name=NAME --zone=ZONE --type=TYPE   which TPU: required
#   --version=VERSION                     its software, v2-alpha-tpuv5-lite without it
#   --project=PROJECT                     gcloud's own without it
#   --spot                                one that may be preempted, at a lower price
#   --setup=COMMAND                       run on every machine before the run
#   --collect=DIR                         where the workdir is copied in the end, and before --delete
#   --retries=N                           how often a lost TPU is made again, 10 without it
#   --pause=SECONDS                       before it is asked what became of it, 30 without it
#   --module=MODULE                       ec_jax.sweep runs a whole grid on a TPU of one machine
#   --delete                              delete the TPU in the end, however it ended, Ctrl-C included
#   --dry-run                             print every command, run none
#
# Exit status: that of the run; 2 input that cannot be used; 1 what gcloud could not do;
# 130 interrupted; 143 terminated.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name='' zone='' type='' version=v2-alpha-tpuv5-lite project='' setup='' collect='' workdir=''
retries=10 pause=30 module=ec_jax.main spot='' delete='' dry='' taken='' collected=''
lost=255 terminated=143 # statuses: of ssh whose machine went away, of a run that got SIGTERM

fail() { # STATUS LINE
  echo "error: $2" >&2
  exit "$1"
}

read_flags() {
  local flag value
  while (($#)); do
    flag=${1%%=*} value=${1#*=}
    case $1 in
      --name=?* | --zone=?* | --type=?* | --version=?* | --project=?* | --setup=?* | --collect=?* | \
        --retries=?* | --pause=?* | --module=?*) printf -v "${flag#--}" %s "$value" ;;
      --spot | --delete) printf -v "${flag#--}" yes ;;
      --dry-run) dry=yes ;;
      --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
      --)
        shift
        break
        ;;
      *) fail 2 "$flag: no such flag, or no value; see --help" ;;
    esac
    shift
  done
  run_flags=("$@")
}

check_flags() {
  local flag
  for flag in name zone type; do
    [[ ${!flag} ]] || fail 2 "--$flag: give it, e.g. --name=ec --zone=us-central1-a --type=v5litepod-8"
  done
  for flag in retries pause; do
    [[ ${!flag} =~ ^[0-9]+$ ]] || fail 2 "--$flag = '${!flag}': give an integer >= 0"
  done
  case $module in
    ec_jax.main) run_flags+=(--config.parallel.coordinator=auto) ;;
    ec_jax.sweep) ;;
    *) fail 2 "--module = '$module': give ec_jax.main or ec_jax.sweep" ;;
  esac
  for flag in "${run_flags[@]}"; do
    [[ $flag == --workdir=?* ]] && workdir=${flag#*=}
  done
  [[ $workdir ]] || fail 2 "--workdir: give it after --, e.g. -- --config=configs/digits.py --workdir=runs/digits"
  [[ $workdir != *://* ]] || fail 2 "--workdir = '$workdir': is no folder; mount it by --setup and give the folder"
  [[ $dry ]] || command -v gcloud >/dev/null || fail 2 "gcloud: is not on this machine; install Google Cloud's command-line tool"
}

show() { printf '%q ' "$@" && echo; } >&3

run() { # COMMAND...: shown, and run unless this is a dry run
  show "$@"
  if [[ ! $dry ]]; then "$@"; fi
}

tpu() { # VERB ARGUMENT...
  local verb=$1
  shift
  run gcloud compute tpus tpu-vm "$verb" "$@" --quiet --zone="$zone" ${project:+--project="$project"}
}

on_all() { tpu ssh "$name" --worker=all --command="$1"; }

# Prints the TPU's state, or nothing where there is none.
state() {
  local found errors status=0
  local asking=(gcloud compute tpus tpu-vm describe "$name" --zone="$zone")
  asking+=(${project:+--project="$project"} --format="value(state)")
  show "${asking[@]}"
  [[ ! $dry ]] || return 0
  found=$("${asking[@]}" 2>"$made/errors") || status=$?
  errors=$(<"$made/errors")
  if ((status == 0)); then
    echo "$found"
  elif [[ $errors != *NOT_FOUND* ]]; then
    fail 1 "${errors//$'\n'/ }"
  fi
}

create() {
  taken=yes # also by a request that is cut off
  tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
}

delete() { tpu delete "$name"; }

# Makes the TPU unless it is there: 255 where it is not ready.
take() { # STATE
  case $1 in
    READY) taken=yes ;;
    '') create || return 1 ;;
    PREEMPTED | TERMINATED) { delete && create; } || return 1 ;;
    *) return "$lost" ;;
  esac
}

# This checkout, with what is not committed, and what it needs, on all machines.
bring() {
  # Google's images are of Ubuntu 22.04, whose own Python is older.
  # shellcheck disable=SC2016 # it is expanded there
  local install='set -e
mkdir -p ec_jax && tar -xzf ec_jax.tar.gz -C ec_jax && cd ec_jax
if ! python3.11 -c "import ensurepip" 2>/dev/null; then
  sudo apt-get update -qq && sudo apt-get install -y -qq python3.11-venv
fi
[ -d .venv ] || python3.11 -m venv .venv
.venv/bin/pip install --quiet "$(sed -n "s/^jax==/jax[tpu]==/p" requirements.txt)" -r requirements.txt'
  run bash -c "git -C ${here@Q} ls-files -z --cached --others --exclude-standard |
tar -C ${here@Q} --null --files-from=- --ignore-failed-read -czf ${archive@Q}" &&
    tpu scp "$archive" "$name:ec_jax.tar.gz" --worker=all &&
    on_all "$install" &&
    if [[ $setup ]]; then on_all "$setup"; fi
}

# A run whose connection was lost may still be there: it saves its step before the next one begins.
start() {
  local flags
  flags=$(printf ' %q' "${run_flags[@]}")
  on_all "cd ec_jax
if kill \"\$(cat run.pid)\" 2>/dev/null; then tail --pid=\"\$(cat run.pid)\" -f /dev/null; fi
echo \$\$ > run.pid
export EC_JAX_JOB=$(printf %q "${EC_JAX_JOB:-tpu-$zone-$name}")
exec .venv/bin/python -m $module$flags"
}

check_machines() { # a grid runs in one process
  local count
  [[ $module == ec_jax.sweep && ! $dry ]] || return 0
  count=$(tpu describe "$name" --format="value(networkEndpoints.len())") || return
  [[ $count == 1 ]] || end 2 "--type = '$type': has $count machines, and $module runs on one; choose a smaller type"
}

collect() {
  local path=$workdir
  [[ $collect && ! $collected ]] || return 0
  collected=yes # or tried
  [[ $path == [/~]* ]] || path=ec_jax/$path
  run mkdir -p "$collect" && tpu scp --recurse "$name:$path" "$collect" --worker=0
}

# Keeps --delete, however the script ends: a TPU that is left costs.
leave() {
  local found=''
  [[ $taken && $delete && ! $dry ]] || return 0
  taken=''
  trap : INT TERM # a copy that is interrupted again is given up
  found=$(state) || found=unknown
  if [[ $found == READY ]]; then collect || true; fi
  trap '' INT TERM
  if [[ $found ]] && ! delete; then
    echo "the TPU $name may still be there, and cost; delete it by hand" >&2
  fi
}

end() { # STATUS [LINE]
  leave
  if [[ ${2-} ]]; then fail "$1" "$2"; fi
  exit "$1"
}

main() {
  local found status try what
  read_flags "$@"
  check_flags
  archive=ec_jax.tar.gz
  if [[ $dry ]]; then
    exec 3>&1
  else
    exec 3>&2
    made=$(mktemp -d)
    trap 'leave; rm -rf "$made"' EXIT
    trap 'exit 130' INT # else bash goes on where gcloud makes a status of its own of Ctrl-C
    archive=$made/$archive
  fi
  for ((try = 0; ; try++)); do
    status=0
    found=$(state) || status=$?
    ((status)) || take "$found" || status=$?
    if ((status && try == 0)); then
      if ((status == lost)); then
        fail 2 "--name = '$name': is $found; wait until it is READY, or delete it"
      fi
      end 1
    fi
    if ((status == 0)); then
      what="what $module needs"
      { check_machines && bring && what=$module && start; } || status=$?
      ((status)) || break
      [[ $dry ]] || sleep "$pause"
      found=$(state) || found=unknown
      if [[ $found == READY ]] && ((status != lost && status != terminated)); then
        end "$status" "$what ended with status $status on the TPU $name"
      fi
    else
      sleep "$pause"
    fi
    ((try < retries)) || end "$status" "the TPU $name was lost $((try + 1)) times; the same command goes on"
    echo "the TPU $name was lost (status $status, state ${found:-none}); retry $((try + 1)) of $retries" >&2
  done
  if [[ $dry ]]; then
    echo "# Whenever it is preempted, and then all of it again:"
    delete
  fi
  collect || end $?
  end 0
}

main "$@"
