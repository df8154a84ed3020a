# The README's two commands are `make demo` and `make test`.

.PHONY: demo demo-clean release test acceptance acceptance-short

# A private PostgreSQL, pgweir in front of it, two nodes of the application and
# light traffic, until Ctrl-C. Variables: `pgweir demo --help`.
demo:
	@scripts/setup
	@cargo build --release --bin pgweir --bin bingo
	@exec cargo run --release --quiet --bin pgweir -- demo

demo-clean:
	@cargo run --release --quiet --bin pgweir -- demo --clean

# target/release/pgweir for production: profile-guided, see docs/deployment.md.
release:
	@scripts/release

# Everything: unit and integration tests, then a short form of the acceptance
# checks. TEST_THREADS bounds the integration tests that run at once.
# What is optional is tested too, in one build.
TEST_THREADS ?= 4
test:
	@scripts/setup
	@cargo build --bins --all-features
	@$(MAKE) --no-print-directory acceptance-short
	@cargo test --lib --bins --all-features
	@cargo test --test integration --all-features -- --test-threads $(TEST_THREADS)

# The acceptance checks, see docs/acceptance.md for variables:
#   make acceptance SCALE=ci SECONDS_PER_CHECK=5 CHECKS=7,8,29
acceptance:
	@scripts/setup
	@cargo build --release --bins
	@exec cargo run --release --quiet --bin acceptance

# The same in four minutes, with what a debug build can show: 29, 30 and 32 are
# about speed, 3, 4, 6, 22 and 36 to 41 wait for nodes most of the time. What
# fails is tried once more, for machines with other work.
acceptance-short: export SCALE ?= ci
acceptance-short: export SECONDS_PER_CHECK ?= 3
acceptance-short: export PROTO_SECONDS ?= 2
acceptance-short: export CALLS ?= 5
acceptance-short: export ATTEMPTS ?= 2
acceptance-short: export CHECKS ?= 1,2,5,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,23,24,25,26,27,28,31,33,34,35
acceptance-short:
	@scripts/setup
	@cargo build --bins --all-features
	@exec cargo run --quiet --all-features --bin acceptance
