# The commands of this house. `make demo`, `make run` and `make test` are all that is needed; the rest is comfort.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo run test test-catch test-cgroup2 test-vmcore soak fuzz bench fmt clean

# Where `make run` keeps its database and blobs.
DATA ?= quarry-data
# More arguments for the command that is run: make run ARGS="--listen 127.0.0.1:8080"
ARGS ?=

help: ## Print what there is
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## Build, and show what becomes of a program that crashes; leaves nothing behind (DEMO_KEEP=1 keeps it running)
	@scripts/install run
	@cargo build --locked --package cli
	@scripts/demo

# The development profile: it starts minutes sooner, and what is hot in it is optimised all the same (Cargo.toml).
run: ## Install what is missing, build, and start the embedded server (ARGS="…", DATA=folder)
	@scripts/install run
	@cargo build --locked --package cli
	@exec "$${CARGO_TARGET_DIR:-target}/debug/quarry" up --data $(DATA) $(ARGS)

test: ## Install what is missing and run the whole gate, as CI does
	@scripts/install test
	@scripts/test

test-cgroup2: ## Run the tests of sandboxes under control groups of version 2, in a virtual machine (ARGS="filter…")
	@scripts/install cgroup2
	@scripts/test-cgroup2 $(ARGS)

test-catch: ## Have real kernels hand cores to `quarry dump catch`, in virtual machines (ARGS="pipe" or "socket")
	@scripts/install cgroup2
	@scripts/test-catch $(ARGS)

test-vmcore: ## Crash a real kernel in a virtual machine, and read its dump in every form
	@scripts/install cgroup2
	@scripts/test-vmcore

soak: ## Run the tests at full size, which takes hours (ARGS="filter…")
	@scripts/install test
	@scripts/soak $(ARGS)

fuzz: ## Fuzz every parser of dumps, an hour each (ARGS="target…" these only, FUZZ_SECONDS=60 a minute each)
	@scripts/install test
	@scripts/fuzz $(ARGS)

bench: ## Run the benches and rebuild bench/RESULTS.md (ARGS="name…" runs these only)
	@scripts/install test
	@scripts/bench $(ARGS)

fmt: ## Format the code
	@cargo fmt --all

clean: ## Remove what was built; the data of `make run` stays
	@cargo clean
