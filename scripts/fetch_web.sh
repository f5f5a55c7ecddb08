#!/usr/bin/env bash
# fetch_web.sh PRESET: fetches what the page of `permllm serve` takes from npm, into the build folder, where the next build finds it. Without
# npm or a network the page shows answers as plain text, and nothing fails.
set -euo pipefail
list=web/package.json
[ -f "$list" ] || exit 0
folder=build/$1/web
if cmp -s "$list" "$folder/package.json" && [ -d "$folder/node_modules" ]; then exit 0; fi
if ! command -v npm >/dev/null; then
  echo "npm is not there: the page will show answers as plain text"
  exit 0
fi
mkdir -p "$folder"
cp "$list" "$folder/package.json"
if [ -f web/package-lock.json ]; then cp web/package-lock.json "$folder/"; fi
if ! (cd "$folder" && npm install --no-audit --no-fund --ignore-scripts --silent); then
  rm -f "$folder/package.json"
  echo "npm could not fetch the page's packages: it will show answers as plain text"
fi
