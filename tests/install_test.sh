#!/usr/bin/env bash
# install_test.sh BUILD VERSION: installs the build into a temporary prefix, and builds and runs a project that finds it there, once by CMake
# and once by pkg-config. CXX and CXXFLAGS are the build's own.
set -euo pipefail
build=$1 version=$2
consumer=$(cd "$(dirname "$0")" && pwd)/consumer
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
prefix=$place/prefix
cmake --install "$build" --prefix "$prefix" >"$place/log" || { cat "$place/log" >&2; exit 1; }
for file in bin/permllm include/permllm/client.h share/doc/permllm/README.md share/doc/permllm/docs/install.md \
  share/man/man1/permllm.1 share/man/man1/permllm-chat.1 share/bash-completion/completions/permllm share/zsh/site-functions/_permllm \
  share/fish/vendor_completions.d/permllm.fish; do
  [ -f "$prefix/$file" ] || { echo "$file was not installed" >&2; exit 1; }
done
case $("$prefix/bin/permllm" --version) in
  "permllm $version, wire version "*) ;;
  *) echo "--version does not begin with permllm $version, wire version" >&2; exit 1 ;;
esac

# An invite whose provider has a key that is none.
cat >"$place/broken.invite" <<'END'
version = 1
tokens = 10
[provider]
address = "127.0.0.1:1"
key = "sha256:00"
[helper]
[user]
END
chmod 600 "$place/broken.invite"

echo "by CMake"
cmake -S "$consumer" -B "$place/cmake" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DEXAMPLES="$prefix/share/doc/permllm/examples" >"$place/log" 2>&1 \
  && cmake --build "$place/cmake" >"$place/log" 2>&1 || { cat "$place/log" >&2; exit 1; }
"$place/cmake/consumer" "$place/broken.invite" "$version"
[ -x "$place/cmake/01-ask" ]

echo "by pkg-config"
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name permllm.pc)")
export PKG_CONFIG_PATH
# Words of flags are meant to be split.
# shellcheck disable=SC2046,SC2086
${CXX:-c++} -std=c++20 ${CXXFLAGS:-} "$consumer/consumer.cpp" $(pkg-config --cflags --libs --static permllm) -o "$place/consumer"
"$place/consumer" "$place/broken.invite" "$version"
