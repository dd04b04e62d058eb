# What a newcomer and the CI call. Each recipe is one line; what they do is in scripts/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup basics demo test chaos fuzz lint advisories sbom check bench

# rustup links its tools here, and a shell that was open before does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## What the tests need: checks for Rust, installs Postgres, builds a Kubernetes control plane (5 minutes, once), moto, grpcurl, Prometheus, cargo-deny (3 minutes, once)
	@./scripts/setup.sh

# What the demo needs of that.
basics:
	@./scripts/setup.sh basics

demo: basics ## Two clusters, a load balancer, a hub: traffic is moved while all pods are replaced (KEEP=1 stays up)
	@cargo build --locked --workspace --bins
	@KEEP="$(KEEP)" ./scripts/run-demo.sh

test: setup ## Every test, the scenarios with the real programs included; ends with "N passed, N failed" (ONLY="hub/store scenarios:weights")
	@./scripts/run-tests.sh $(ONLY)

chaos: setup ## The whole chaos suite under live traffic, of which `make test` runs the most telling rows (ONLY as above, SWITCHYARD_SEED=N repeats)
	@./scripts/run-tests.sh --chaos $(ONLY)

fuzz: ## Looks for inputs that nobody thought of, each target for SECONDS=20 (TARGET=gateway for one, SWITCHYARD_SEED=N repeats)
	@./scripts/fuzz.sh $(or $(SECONDS),20) $(TARGET)

lint: ## Format, clippy, documentation, and the checks of scripts/
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --bins --test chaos_full -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	./scripts/check-core-purity.sh
	./scripts/check-docs.sh
	./scripts/check-protos.sh
	./scripts/check-one-build.sh
	./scripts/check-crates.sh

advisories: ## Known faults of the crates in Cargo.lock; fetches the database of RustSec, so it needs the network and is not a part of lint
	@./scripts/check-crates.sh advisories

sbom: ## What each program is made of, as CycloneDX, into target/sbom
	@./scripts/sbom.sh

check: ## The fast loop: compiles everything, runs the decisions' own tests
	cargo check --locked --workspace --all-targets
	cargo test --locked -p switchyard-core --quiet

bench: basics ## Planning at 100,000 endpoints; how long the demo's moves take, and the latency of requests meanwhile
	@cargo bench --locked -p switchyard-core --bench plan
	@cargo build --locked --workspace --bins
	@./scripts/run-demo.sh --bench
