#!/usr/bin/env bash
# What runs on the workers of a slice. setup.sh brings it there, the other scripts call it; it can also be used on any machine.
#
#   worker.sh install ARCHIVE EXTRA           an environment with the package in it; nothing to do if it is there already
#   worker.sh mount gs://BUCKET               the bucket as the folder ~/speech_jax/bucket
#   worker.sh start RUN SYNC -- COMMAND…      starts the command in the background; SYNC: gs://FOLDER or nothing
#   worker.sh status RUN                      none, running, stopped (a signal ended it), gone (it left no exit code), or exit N
#   worker.sh stop RUN SECONDS                SIGTERM, and waits: the trainer saves and leaves
#
# Everything lies in ~/speech_jax: env, source.tar.gz, data, runs/RUN (the trainer's folder), jobs/RUN (log.txt, pid, ended).
set -euo pipefail

root=$HOME/speech_jax

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A Python that is new enough. The machine images have 3.10; Ubuntu's archive has 3.11 beside it.
find_python() {
  local found
  for found in python3.13 python3.12 python3.11; do
    if command -v "$found" >/dev/null; then
      echo "$found"
      return
    fi
  done
  sudo apt-get update -qq >&2 && sudo apt-get install -y -qq python3.11 python3.11-venv >&2
  echo python3.11
}

install_package() { # ARCHIVE EXTRA
  local stamp python
  stamp=$(sha256sum <"$1")$2
  if [[ -f "$root/installed" && "$(cat "$root/installed")" == "$stamp" ]]; then
    echo "installed already"
    return
  fi
  mkdir -p "$root/jobs" "$root/runs" "$root/data"
  rm -f "$root/installed"
  python=$(find_python)
  [[ -x "$root/env/bin/python" ]] || "$python" -m venv "$root/env"
  rm -rf "$root/source" && mkdir "$root/source"
  tar -xzf "$1" -C "$root/source"
  ln -s ../data "$root/source/data" # configs name recordings from there; another commit leaves them where they are
  "$root/env/bin/python" -m pip install --quiet "$root/source[$2]"
  printf '%s' "$stamp" >"$root/installed"
  echo "installed"
}

# https://cloud.google.com/storage/docs/cloud-storage-fuse/install and …/cloud-storage-fuse/mount-bucket
mount_bucket() { # gs://BUCKET
  local folder=$root/bucket
  mkdir -p "$folder"
  if mountpoint -q "$folder"; then
    echo "mounted already"
    return
  fi
  command -v gcsfuse >/dev/null ||
    die "gcsfuse: found none, expected it installed: https://cloud.google.com/storage/docs/cloud-storage-fuse/install"
  gcsfuse --implicit-dirs --rename-dir-limit=100000 "${1#gs://}" "$folder" >/dev/null
  # Rights show only when something is written.
  if ! { touch "$folder/.speech_jax_$(hostname)" && rm "$folder/.speech_jax_$(hostname)"; }; then
    die "$1: cannot be written from here, expected the workers' service account to have roles/storage.objectUser on it"
  fi
  echo "mounted"
}

# A number of a process is used again after a reboot, so the command line is compared too.
alive() { # RUN
  local pid
  pid=$(cat "$root/jobs/$1/pid" 2>/dev/null) || return 1
  [[ -r "/proc/$pid/cmdline" ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "watch $1 "
}

status() { # RUN
  if alive "$1"; then
    echo running
  elif [[ -s "$root/jobs/$1/ended" ]]; then
    cat "$root/jobs/$1/ended"
  elif [[ -d "$root/jobs/$1" ]]; then
    echo gone
  else
    echo none
  fi
}

start() { # RUN SYNC COMMAND…
  local job=$root/jobs/$1
  if alive "$1"; then
    echo "runs already"
    return
  fi
  mkdir -p "$job" "$root/runs"
  rm -f "$job/ended" "$job/pid"
  cd "$root"
  [[ ! -d source ]] || cd source # configs are found from there
  setsid nohup bash "$root/worker.sh" watch "$@" >>"$job/log.txt" 2>&1 </dev/null &
  for _ in {1..50}; do
    [[ ! -s "$job/pid" ]] || break
    sleep 0.1
  done
  [[ -s "$job/pid" ]] || die "$1: did not start; see $job/log.txt"
  echo "started"
}

push() { # RUN SYNC
  [[ -z "$2" || ! -d "$root/runs/$1" ]] || gcloud storage rsync "$root/runs/$1" "$2/$1" --recursive --quiet
}

# A text without the passwords in its addresses, as speech_jax/core/passwords.py masks them.
masked() { # TEXT
  sed -E 's#([A-Za-z][A-Za-z0-9+.-]*://[^[:space:]/:@]*):[^[:space:]]*@#\1:***@#g
    s#(https?://)[^[:space:]/:@]+@#\1***@#g
    s#([?&;]([A-Za-z_.-]*(password|passwd|pwd|token|secret|key|signature|credential)|pass|sig)=)[^[:space:]&\#]+#\1***#gI' <<<"$1"
}

# Runs the command, sends the run's folder to the bucket every five minutes and at the end, and writes how it ended.
watch() { # RUN SYNC COMMAND…
  local run=$1 sync=$2 job=$root/jobs/$1 child code=0 stopped='' every=${SPEECH_JAX_SYNC_SECONDS:-300} last=$SECONDS
  shift 2
  # The trainer ends with 0 after a signal too; only here is it known that it did not come to its end.
  trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' TERM INT
  printf '%s' "$$" >"$job/pid"
  printf -- '---- %s: %s\n' "$(date -u +%FT%TZ)" "$(masked "$*")"
  if [[ -n "$sync" && ! -d "$root/runs/$run" ]] && gcloud storage ls "$sync/$run" >/dev/null 2>&1; then
    mkdir -p "$root/runs/$run" # a new machine: go on with what the old one had saved
    gcloud storage rsync "$sync/$run" "$root/runs/$run" --recursive --quiet
  fi
  "$@" &
  child=$!
  [[ -z "$stopped" ]] || kill -TERM "$child" 2>/dev/null || true
  while kill -0 "$child" 2>/dev/null; do
    sleep 1 &
    wait $! || true
    if ((SECONDS - last >= every)); then
      push "$run" "$sync" || echo "not sent to $sync; trying again"
      last=$SECONDS
    fi
  done
  wait "$child" || code=$?
  push "$run" "$sync" || echo "not sent to $sync"
  if [[ -n "$stopped" && $code == 0 ]]; then echo stopped >"$job/ended"; else echo "exit $code" >"$job/ended"; fi
  printf -- '---- %s: %s\n' "$(date -u +%FT%TZ)" "$(cat "$job/ended")"
}

stop() { # RUN SECONDS
  alive "$1" || {
    status "$1"
    return
  }
  kill -TERM "$(cat "$root/jobs/$1/pid")"
  for ((i = 0; i < $2; i++)); do
    alive "$1" || break
    sleep 1
  done
  ! alive "$1" || die "$1: still there $2 s after SIGTERM"
  status "$1"
}

case "${1:-}" in
  install) install_package "$2" "$3" ;;
  mount) mount_bucket "$2" ;;
  start)
    [[ "$4" == -- ]] || die "start: found ${4@Q}, expected --"
    start "$2" "$3" "${@:5}"
    ;;
  watch) watch "${@:2}" ;;
  status) status "$2" ;;
  stop) stop "$2" "$3" ;;
  *) die "worker.sh: found ${1@Q}, expected install, mount, start, status or stop" ;;
esac
