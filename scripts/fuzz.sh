#!/usr/bin/env bash
# fuzz.sh SECONDS [NAME...]: each libFuzzer program (or those named, like wire) for so long, two at a time, beginning with its seeds and with what
# was found before. An input that fails is left in build/sanitize/fuzz/NAME, beside the log.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
programs=build/sanitize/tests/fuzz
export LLVM_PROFILE_FILE=/dev/null # their lines are not counted
[ $# -gt 0 ] || set -- $(cd tests/fuzz && for source in *_fuzz.cpp; do echo "${source%_fuzz.cpp}"; done)

fuzz() {
  local name=$1 folder=build/sanitize/fuzz/$1
  rm -rf "$folder" && mkdir -p "$folder/corpus"
  local status=0
  "$programs/${name}_fuzz_replay" --write "$folder/corpus" >"$folder/log" 2>&1 &&
    "$programs/${name}_fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=3000 -malloc_limit_mb=600 -print_final_stats=1 \
      -artifact_prefix="$folder/" "$folder/corpus" $(ls -d tests/fuzz/found/"$name" 2>/dev/null) >>"$folder/log" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 60 "$folder/log"
    echo "$name: failed, with what is in $folder"
    return 1
  fi
  echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/log") inputs in $seconds s"
}
export -f fuzz
export programs seconds
printf '%s\n' "$@" | xargs -P 2 -I{} bash -c 'fuzz {}'
