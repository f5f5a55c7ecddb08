#!/usr/bin/env bash
# fetch_web.sh PRESET [required]: fetches what the page of `permllm serve` takes from npm, into the build folder, where the next build finds it. Without
# npm or a network the page shows answers as plain text, and nothing fails but what is to be packed (required).
set -euo pipefail
list=web/package.json
[ -f "$list" ] || exit 0
folder=build/$1/web
if cmp -s "$list" "$folder/package.json" && [ -d "$folder/node_modules" ]; then exit 0; fi
give_up() {
  [ "${2:-}" != required ] || { echo "$1: the page's packages belong into what is packed" >&2; exit 1; }
  echo "$1: the page will show answers as plain text"
  exit 0
}
command -v npm >/dev/null || give_up "npm is not there" "${2:-}"
mkdir -p "$folder"
cp "$list" "$folder/package.json"
if [ -f web/package-lock.json ]; then cp web/package-lock.json "$folder/"; fi
if ! (cd "$folder" && npm install --no-audit --no-fund --ignore-scripts --silent); then
  rm -f "$folder/package.json"
  give_up "npm could not fetch the page's packages" "${2:-}"
fi
