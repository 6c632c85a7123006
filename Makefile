# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment; only Python 3.11+ is needed.
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv
NEWEST := .venv-newest
DOCS := .venv-docs
# Hundreds of XLA programs each, which TensorFlow never frees: they get processes of their own.
COMPILING := $(foreach wing,flax tensorflow,tests/test_$(wing)_generation.py tests/test_$(wing)_combinations.py)

# What `bench` measures beside what, in each precision; a plus is a space.
SIDES := --beside+transformers+ctranslate2 --precision+bfloat16+--beside+transformers --precision+int8+--beside+ctranslate2

# Two processes, a file of tests to each at a time, in the order of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: bench browser demo docs pictures test test-fast test-newest lint clean

demo: $(DEMO)/ready            ## summarize a report and hold a short talk, offline, on the bundled checkpoints
	@echo '--- a report in one line:'
	HF_HUB_OFFLINE=1 $(DEMO)/bin/seq2seq-models summarize examples/report.txt
	@echo '--- a small talk:'
	HF_HUB_OFFLINE=1 $(DEMO)/bin/seq2seq-models chat < examples/chat.txt

test: $(TEST)/ready lint docs  ## everything: style, types, pages, all tests, and the hub tests on the newest hub client
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest $(TWO) $(COMPILING:%=--ignore=%)
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest $(TWO) $(COMPILING)
	$(MAKE) test-newest

test-fast: $(TEST)/ready       ## the tests that take moments
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest $(TWO) -m 'not heavy'

test-newest: $(NEWEST)/ready browser ## with the newest huggingface_hub, tokenizers, transformers, accelerate and peft; serve
	$(NEWEST)/bin/python -m pytest -m "not reference and not heavy" tests/test_hub.py tests/test_hub_models.py \
		tests/test_hub_faults.py \
		tests/test_checkpoints.py tests/test_leaves.py tests/test_tokenizer_files.py tests/test_serve.py \
		tests/test_saved_by_transformers_5.py
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(TWO) -m "not heavy" tests/test_trainer.py tests/test_ecosystem.py

browser:                       # Chromium for the page of serve, where it can be had; without it and NO_BROWSER=1 a test fails
	@[ "$$NO_BROWSER" = 1 ] || { command -v chromium && command -v chromedriver; } > /dev/null || [ "$$(id -u)" != 0 ] || \
		{ apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium chromium-driver; } || true

docs: $(DOCS)/ready            ## the documentation as a site, in build/site; a warning or a dead link fails
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet

bench: $(TEST)/ready           ## speed and memory beside transformers and CTranslate2, both families, on a quiet machine: an hour
	$(foreach family,blenderbot-small pegasus,$(foreach sides,$(SIDES), \
		$(TEST)/bin/python benchmarks/generate.py --family $(family) $(subst +, ,$(sides)) &&)) true

pictures: $(TEST)/ready $(NEWEST)/ready browser ## every picture of the docs anew: half an hour
	$(TEST)/bin/python docs/draw_house.py docs/images/house.png
	$(TEST)/bin/python examples/plot_attention.py --output docs/images/attention.png
	$(TEST)/bin/python examples/compare_frameworks.py --output build/compared --overwrite
	cp build/compared/compared.png docs/images/frameworks.png
	$(TEST)/bin/python benchmarks/growth.py --output docs/images/growth.png
	$(TEST)/bin/python benchmarks/growth.py --family pegasus --output docs/images/growth-pegasus.png
	SERVE_SCREENSHOTS=docs/images $(NEWEST)/bin/python -m pytest tests/test_serve.py

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy

$(DEMO)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet -c constraints.txt -e '.[torch]'
	touch $@

$(TEST)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet -c constraints.txt -e '.[all,dev]'
	touch $@

$(NEWEST)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==\|^numpy==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/pip install --quiet -c $(NEWEST)/constraints.txt -e '.[torch,serve]' 'huggingface_hub>=2' pytest pytest-timeout pytest-xdist hypothesis sentencepiece jinja2 selenium 'transformers>=5' accelerate datasets peft
	touch $@

$(DOCS)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet -c constraints.txt '.[docs]'
	touch $@

clean:
	rm -rf build $(DEMO) $(TEST) $(NEWEST) $(DOCS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
