#!/usr/bin/env bash
# tidy.sh: clang-tidy (.clang-tidy) over the files of src that differ from where this branch left BASE (default: origin/main, else main);
# ALL=1: over all of them. A header is looked at in its own source file, or in one that includes it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${ALL:-}" ]; then
  changed=$(git ls-files 'src/*.cpp')
else
  base=${BASE:-$(git rev-parse --quiet --verify origin/main || git rev-parse --quiet --verify main)}
  changed=$(git diff --name-only --diff-filter=d "$(git merge-base "$base" HEAD)" -- 'src/*.h' 'src/*.cpp')
fi
[ -f build/release/compile_commands.json ] || cmake --preset release >/dev/null
for file in $changed; do
  case $file in
    *.cpp) echo "$file" ;;
    *) ls "${file%.h}.cpp" 2>/dev/null || grep -rlF "#include \"${file#src/}\"" src --include='*.cpp' | sort | head -n 1 ;;
  esac
done | sort -u | xargs -r -P "$(nproc)" -n 1 clang-tidy-14 -p build/release --quiet
