#!/usr/bin/env bash
# build.sh PRESET TARGET: configures once, then builds. Quiet when nothing is to do.
set -euo pipefail
preset=$1 target=$2
[ "$preset" != release ] || scripts/fetch_web.sh release unless-tried
if [ ! -f "build/$preset/build.ninja" ]; then
  echo "Configuring ($preset)"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
exec cmake --build --preset "$preset" --target "$target" -- --quiet
