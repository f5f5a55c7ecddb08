#!/usr/bin/env bash
# Installs the Debian packages that the project needs and that are missing. Says nothing when none is.
# setup.sh tests: also what the tests check the program and the ledger's model with; mpi: what permllm-mpi is built with; page: what packs the web page; clients: the programs that
# `make test-clients` tries the gateway with; sanitizers: the compiler that has libFuzzer, and what counts lines; format: what formats the source;
# tidy: what looks for faults in it.
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config ca-certificates
  libboost1.81-dev libssl-dev libhwy-dev libcli11-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libtomlplusplus-dev
  libeigen3-dev libsqlite3-dev libxxhash-dev libspdlog-dev prometheus-cpp-dev libcpp-httplib-dev libedit-dev libseccomp-dev
  libgtest-dev libbenchmark-dev python3 python3-numpy python3-jinja2 python3-pip python3-yaml unzip dpkg-dev file iproute2 systemd
)
case "${1:-}" in
  tests) packages+=(devscripts spin libopenmpi-dev openmpi-bin) ;;
  mpi) packages+=(libopenmpi-dev openmpi-bin) ;;
  sanitizers) packages+=(clang-14 libclang-rt-14-dev llvm-14) ;;
  format) packages+=(clang-format-14) ;;
  tidy) packages+=(clang-tidy-14) ;;
  page | clients) command -v npm >/dev/null || packages+=(nodejs npm) ;;
esac
if [ "${1:-}" = clients ]; then
  packages+=(curl python3-venv)
  command -v java >/dev/null || packages+=(openjdk-17-jdk-headless)
  command -v mvn >/dev/null || packages+=(maven)
  command -v chromium >/dev/null || packages+=(chromium)
fi

if ! command -v dpkg-query >/dev/null; then
  echo "This set-up knows Debian 12. On another system, install the equivalents of:" >&2
  echo "  ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Packages are missing. As root, run:  apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "The packages could not be installed; what apt-get said stands above." >&2
  exit 1
fi
