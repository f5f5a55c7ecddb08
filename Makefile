# PermLLM. The first two commands, `make demo` and `make test`, do all of their own set-up.
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
TEST_MODELS := $(MODEL) models/gemma-3-270m-q4_k_m.gguf
QWEN := models/qwen2.5-coder-0.5b-instruct.gguf
LARGE_QWEN := models/qwen2.5-coder-1.5b-instruct.gguf
BINARY := build/release/permllm
PROMPT ?= Explain in two sentences why the sky is blue.
ARGS ?=
export PROMPT

.DEFAULT_GOAL := help
.PHONY: help setup build model test-models web demo serve check check-format tidy test test-large test-clients test-sanitized bench deb sanitize coverage thread fuzz format clean

help:
	@echo "make demo     a private answer: provider, helper and user on this machine"
	@echo "              make demo PROMPT=\"What is the capital of France?\" ARGS=\"--rtt 10ms --bandwidth 1gbit\""
	@echo "make serve    a chat page and OpenAI's HTTP interface on this machine, at http://127.0.0.1:8080/"
	@echo "              make serve ARGS=\"--stock 512 --profile fast\""
	@echo "make check    the tests of single units and protocols: under a minute, for before each commit"
	@echo "make test     build everything and run all tests"
	@echo "make test-large    the choices of four real models in every profile, and their ranges, Qwen2.5-Coder 1.5B (1.1 GB) among them"
	@echo "make test-clients  packages and frameworks of Python, JavaScript and Java, curl and a browser against the gateway"
	@echo "make build    $(BINARY)"
	@echo "make model    $(MODEL)"
	@echo "make deb      the packages permllm, permllm-mpi and libpermllm-dev, in build/release"
	@echo "make bench    build and run the benchmarks"
	@echo "make test-sanitized  what follows, in turn"
	@echo "make sanitize a part of the tests under the address and undefined-behaviour sanitizers"
	@echo "make coverage that, and how many lines of protocol, wire, session and gateway it has run"
	@echo "make thread   a part of them under the thread sanitizer"
	@echo "make fuzz     each fuzz target for a minute; FUZZ_SECONDS=600 for longer"
	@echo "make setup    install the packages that all of this needs (Debian 12)"
	@echo "make tidy     clang-tidy over the files of src that a branch changes; BASE=COMMIT, ALL=1"
	@echo "make format, make check-format, make clean"

setup:
	@scripts/setup.sh

build: setup
	@scripts/build.sh release permllm

model: setup
	@scripts/fetch_model.sh $(MODEL)

test-models: setup
	@scripts/fetch_model.sh $(TEST_MODELS)

demo: build model
	@$(BINARY) demo $(MODEL) --prompt "$$PROMPT" $(ARGS)

web:
	@scripts/setup.sh page
	@scripts/fetch_web.sh release

serve: web build model
	@$(BINARY) serve --demo $(MODEL) $(ARGS)

check: setup test-models
	@scripts/build.sh release checked
	@ctest --preset release -L '^(unit|box)'

test: setup test-models
	@scripts/setup.sh tests
	@scripts/fetch_model.sh $(QWEN)
	@scripts/build.sh release all
	@ctest --preset release

test-large: setup test-models
	@scripts/fetch_model.sh $(QWEN) $(LARGE_QWEN)
	@scripts/build.sh release parties_choices_test
	@scripts/build.sh release parties_ranges_test
	@PERMLLM_LARGE=1 build/release/tests/parties_choices_test
	@PERMLLM_LARGE=1 build/release/tests/parties_ranges_test

test-clients: model
	@scripts/setup.sh clients
	@scripts/fetch_web.sh release
	@scripts/build.sh release permllm
	@tests/clients/run.sh $(MODEL)

bench: setup model
	@scripts/build.sh release all
	@for program in build/release/bench/*_bench; do echo "== $$program"; $$program || exit 1; done

deb: setup
	@scripts/setup.sh page
	@scripts/fetch_web.sh release required
	@scripts/setup.sh mpi
	@scripts/build.sh release permllm
	@scripts/build.sh release permllm-mpi
	@cd build/release && cpack --config CPackConfig.cmake

# The part is chosen in tests/CMakeLists.txt.
sanitize thread: setup
	@scripts/setup.sh sanitizers
	@scripts/build.sh $@ sanitized
	@rm -rf build/$@/coverage
	@ctest --preset $@

coverage: sanitize
	@scripts/coverage.sh

FUZZ_SECONDS ?= 60
fuzz: setup
	@scripts/setup.sh sanitizers
	@scripts/build.sh sanitize fuzzers
	@scripts/fuzz.sh $(FUZZ_SECONDS)

test-sanitized:
	@$(MAKE) --no-print-directory coverage
	@$(MAKE) --no-print-directory thread
	@$(MAKE) --no-print-directory fuzz

format:
	@scripts/setup.sh format
	@clang-format-14 -i $$(git ls-files '*.h' '*.cpp')

check-format:
	@scripts/setup.sh format
	@clang-format-14 --dry-run -Werror $$(git ls-files '*.h' '*.cpp')

tidy: setup
	@scripts/setup.sh tidy
	@scripts/tidy.sh

clean:
	rm -rf build
