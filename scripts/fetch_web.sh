#!/usr/bin/env bash
# fetch_web.sh PRESET [required]: fetches what the page of `permllm serve` takes from npm, by the hashes of web/package-lock.json, into the build folder,
# where the build finds it. Each build calls it. Without npm or a network the page shows answers as plain text; that is said once, and nothing fails but
# what is to be packed (required).
set -euo pipefail
list=web/package-lock.json
folder=build/$1/web
if cmp -s "$list" "$folder/package-lock.json" && [ -d "$folder/node_modules" ]; then exit 0; fi
give_up() {
  [ "${2:-}" != required ] || { echo "$1: the page's packages belong into what is packed" >&2; exit 1; }
  if [ ! -e "$folder/without" ]; then echo "$1: the page of permllm serve will show answers as plain text (make web tries again)"; fi
  touch "$folder/without"
  exit 0
}
mkdir -p "$folder"
command -v npm >/dev/null || give_up "npm is not there" "${2:-}"
if [ "${2:-}" = unless-tried ] && [ -e "$folder/without" ]; then exit 0; fi  # a build without a network does not wait for it each time
cp web/package.json "$list" "$folder/"
if ! (cd "$folder" && npm ci --fetch-retries 1 --fetch-timeout 20000 --no-audit --no-fund --ignore-scripts --silent); then
  rm -f "$folder/package-lock.json"
  give_up "npm could not fetch the page's packages" "${2:-}"
fi
rm -f "$folder/without"
