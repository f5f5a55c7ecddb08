#!/usr/bin/env bash
# check_deb.sh [MODEL]: installs the Debian packages in a clean Debian 12 and has a private answer there, by the program and by a program that is
# built against the library. As root, with debootstrap; takes the mirror that apt uses here, or that of MIRROR. Not part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ "$(id -u)" -eq 0 ] || { echo "needs root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "needs debootstrap: apt-get install -y debootstrap" >&2; exit 2; }
[ -f "$model" ] || { echo "$model is missing; make model" >&2; exit 2; }
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)}
[ -n "$mirror" ] || { echo "apt knows no mirror of bookworm; give one in MIRROR" >&2; exit 2; }

make deb
root=$(mktemp -d)
log=$root.log
chmod 755 "$root"  # apt downloads as a user of its own
running=()
finish() {
  [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true
  wait
  umount "$root/proc" 2>/dev/null || true
  rm -rf --one-file-system "$root" "$log"
}
trap finish EXIT
quiet() { "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

echo "== a clean system"
quiet debootstrap --variant=minbase bookworm "$root" "$mirror"
mount -t proc proc "$root/proc"
cp build/release/{permllm,permllm-mpi,libpermllm-dev}_*.deb "$root/tmp/"
cp "$model" "$root/tmp/model.gguf"

echo "== permllm"
inside sh -c 'dpkg -i /tmp/permllm_*.deb' >/dev/null 2>&1 || true  # leaves what it depends on to the next command
quiet inside sh -c 'apt-get update && apt-get install -y -f --no-install-recommends'
inside permllm --version
inside getent passwd permllm
inside ls -ld /etc/permllm /var/lib/permllm

echo "== a private answer"
inside permllm keygen --role helper --out /etc/permllm/helper >/dev/null
inside permllm keygen --role provider --out /etc/permllm/provider >/dev/null
inside cp /etc/permllm/provider/certificate.pem /etc/permllm/helper/peers/provider.pem
inside cp /etc/permllm/helper/certificate.pem /etc/permllm/provider/peers/helper.pem
# start FILE ARGUMENT...: a party, its events in FILE; sets `address` once it is ready.
start() {
  local events=$1
  shift
  chroot "$root" permllm "$@" --events --listen 127.0.0.1:0 >"$events" &
  running+=($!)
  for _ in $(seq 300); do
    if address=127.0.0.1:$(sed -n 's/.*"ready".*"port":\([0-9]*\).*/\1/p;s/.*"port":\([0-9]*\).*"ready".*/\1/p' "$events" | grep .); then return; fi
    kill -0 "${running[-1]}" 2>/dev/null || break
    sleep 0.2
  done
  cat "$events" >&2
  exit 1
}
start "$root/tmp/helper.log" helper --identity /etc/permllm/helper
helper=$address
start "$root/tmp/provider.log" provider --identity /etc/permllm/provider --helper "$helper" --model /tmp/model.gguf --context 256
inside permllm invite alice --identity /etc/permllm/provider --provider-address "$address" --helper-address "$helper" --tokens 1000 --out /root/alice.invite >/dev/null
answer=$(inside sh -c 'echo "What is the capital of France?" | permllm chat --invite /root/alice.invite --max-tokens 24' 2>/dev/null)
echo "$answer"
[ -n "$answer" ]

echo "== permllm-mpi"
inside sh -c 'dpkg -i /tmp/permllm-mpi_*.deb' >/dev/null 2>&1 || true
quiet inside sh -c 'apt-get install -y -f --no-install-recommends'
inside env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 mpirun -n 2 permllm-mpi --version

echo "== libpermllm-dev"
inside sh -c 'dpkg -i /tmp/libpermllm-dev_*.deb' >/dev/null 2>&1 || true
quiet inside sh -c 'apt-get install -y -f --no-install-recommends && apt-get install -y --no-install-recommends g++ pkg-config'
inside sh -c 'c++ -std=c++20 /usr/share/doc/permllm/examples/03-cost.cpp $(pkg-config --cflags --libs --static permllm) -o /tmp/03-cost'
inside /tmp/03-cost /root/alice.invite "What is the capital of France?"

echo "== removal"
quiet inside dpkg --purge permllm-mpi permllm
inside test -f /etc/permllm/provider/key.pem
echo "keys are still there; all is well"
