# privml-build: every target does the set-up that it needs. `make help` lists them.

NAME ?= demo-cpu
TEE ?= tdx
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRIVML := $(BIN)/privml-build
POOLS = $(foreach pool,$(POOL),--pool $(pool))
REFRESHED = out/locks/$(NAME).lock.json
READY := $(VENV)/.ready

.PHONY: help host venv image test check check-full check-gpu demo bench lock pictures recording clean lint
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

host: ## say what this machine lacks; as root, install it
	@sh tests/host.sh $(PYTHON)

venv: $(READY) ## make .venv with the locked requirements

$(READY): requirements.txt pyproject.toml | host
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

image: venv ## build out/NAME (NAME=demo-cpu POOL="DIR|URL ..."); a refreshed image if inputs are unavailable
	@$(PRIVML) image $(NAME) $(POOLS) || { status=$$?; [ $$status = 4 ] || exit $$status; \
	echo "*** $(NAME) cannot be built from the inputs of its lock. Replacing ONLY UNAVAILABLE INPUTS, in $(REFRESHED)." >&2; \
	echo "*** The image has other measurements than the committed lock's, and its manifest says \`refreshed\`." >&2; \
	$(PRIVML) lock $(NAME) --refresh-to $(REFRESHED) $(POOLS) && \
	$(PRIVML) image $(NAME) --lock $(REFRESHED) $(POOLS); }

lint: venv ## formatters, linters, types
	@$(BIN)/ruff format --check builder tests .github
	@$(BIN)/ruff check builder tests .github
	@cd builder && ../$(BIN)/mypy --config-file ../pyproject.toml -p privml

test: venv lint ## fast tests, linters and types included
	@mkdir -p out
	@$(BIN)/pytest -m real tests/real --collect-only --quiet --no-summary > out/collected || { cat out/collected; exit 1; }
	@$(BIN)/pytest --numprocesses=auto --dist=loadfile

check: venv ## real build, boot comparison, demo with its refusals
	@$(BIN)/pytest -m real tests/real --durations=0

check-full: venv ## everything that `check` does, over all shapes and tampers
	@PRIVML_FULL=1 $(BIN)/pytest -m real tests/real --durations=0

check-gpu: venv ## driver and vLLM: images, boots, launchers of kernels (an hour or two, 45 GB of disk; not a part of the others)
	@PRIVML_GPU=1 $(BIN)/pytest -m real tests/real/test_driver.py tests/real/test_triton.py tests/real/test_runfile.py tests/real/test_vllm.py --durations=0

demo: venv ## accept the honest image, refuse the tampered ones (TEE=snp: under a simulated SEV-SNP)
	@TEE=$(TEE) $(BIN)/python -m tests.real.demo

bench: venv ## one JSON line a figure; fails nothing (BENCH_FULL=1: whole builds too)
	@$(BIN)/python -m benchmarks.run

lock: venv ## renew the recipes' locks (packages stay unless UPGRADE=1)
	@$(PRIVML) lock $(if $(UPGRADE),--upgrade) demo-cpu demo-cpu-dev tdx-min tdx-gpu-min
	@$(PRIVML) lock --no-fetch $(if $(UPGRADE),--upgrade) tdx-h100-vllm

pictures: venv ## draw docs/pictures again, from the code and from the demo's output
	@$(BIN)/python -m tests.pictures

recording: venv ## run the demo and keep its output as the recording of the README
	@mkdir -p out && $(BIN)/python -m tests.real.demo > out/demo.txt && mv out/demo.txt docs/pictures/demo.txt
	@$(BIN)/python -m tests.pictures

clean: ## remove out/ and .venv (the store of inputs stays)
	rm -rf out $(VENV) dist
