# The first Python that runs; `make demo PYTHON=/path/to/python3.11` takes another.
PYTHON ?= $(or $(shell for p in python3.11 python3 python; do $$p -c "" 2>/dev/null && echo $$p && break; done),python3)
BIN := .venv/bin
COMPAT := .venv-compat
WHEEL := .venv-wheel
PIP := -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo lab test test-lint test-types test-unit test-compat test-notebooks test-wheel test-docs docs vectors monitors notebooks posttrain results ladder families gallery bench clean python

help: ## show what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(BIN)/installed ## derive the 171 vectors of a small model, test them, draw the figures
	@$(BIN)/emolens demo

lab: $(BIN)/installed ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

test: test-lint test-types test-unit test-compat test-wheel test-docs test-notebooks ## run all of the following, in this order

test-lint: $(BIN)/installed ## ruff: rules and format; import-linter: which room may import which
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== import-linter"
	@$(BIN)/lint-imports | tail -4

test-types: $(BIN)/installed ## mypy
	@echo "== mypy"
	@$(BIN)/mypy

test-unit: $(BIN)/installed ## the tests of the package
	@echo "== unit tests"
	@$(BIN)/pytest -q -n auto

test-compat: $(COMPAT)/installed ## the conformance tests on TransformerLens 3
	@echo "== conformance on TransformerLens 3"
	@$(COMPAT)/bin/pytest -q tests/conformance

test-wheel: $(WHEEL)/installed ## the wheel alone, in an environment of its own, reads a text
	@echo "== the wheel"
	@cd $(WHEEL) && bin/emolens read "I have one hour left, and nobody answers the phone." --top 3

test-docs: $(BIN)/installed ## the site: no warning, no broken link, nothing loaded from a network
	@echo "== the site"
	@rm -rf build/docs
	@$(MAKE) -s docs

docs: $(BIN)/installed ## build the site into build/docs, from the committed notebooks, figures and docstrings
	@$(BIN)/sphinx-build -q -W --keep-going -b html -d build/doctrees docs build/docs
	@$(BIN)/python scripts/site_links.py build/docs

test-notebooks: $(BIN)/installed ## every notebook and the solutions of its exercises, the outputs compared
	@echo "== notebooks (the first time both models' vectors are derived, a few minutes each)"
	@for m in smollm2-135m-instruct gemma-3-270m; do \
	    $(BIN)/python -c "import emolens as el; el.derive(el.load('$$m'))" || exit 1; done
	@rm -rf solved && $(BIN)/python scripts/notebooks.py solve solved
	@$(BIN)/pytest -q --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg \
	    --nbval-cell-timeout=600 solved/*.ipynb

notebooks: $(BIN)/installed ## run notebooks again, solutions included, and write what comes out (NOTEBOOKS="notebooks/05_steering.ipynb ...")
	@$(BIN)/python scripts/notebooks.py run $(NOTEBOOKS)

vectors: $(BIN)/installed ## make the packaged vectors again
	@$(BIN)/python scripts/package_vectors.py

monitors: $(BIN)/installed ## make the packaged monitors again
	@$(BIN)/python scripts/package_monitors.py

posttrain: $(BIN)/installed ## train the children of the base model that are not there yet (about an hour)
	@$(BIN)/python scripts/posttrain.py

MODELS ?= smollm2-135m-instruct gemma-3-270m
results: $(BIN)/installed ## run every study in full, for figures/data; what is there is kept (MODELS="NAME ...")
	@for m in $(MODELS); do $(BIN)/emolens run --all --model $$m --out figures/data || exit 1; done

ladder: $(BIN)/installed ## measure the size ladder, four models from 135 M to 1.5 B, for figures/ladder (hours; what is there is kept)
	@$(BIN)/python scripts/ladder.py

families: $(BIN)/installed ## check what works on tiny models of all families, for docs/models.json (minutes)
	@$(BIN)/python scripts/families.py

gallery: $(BIN)/installed ## write figures/README.md from the figures that the notebooks wrote
	@$(BIN)/python -c 'from emolens import plots; print(plots.gallery("figures"))'

bench: $(BIN)/installed ## measure speed and memory against other ways to do it
	@for m in smollm2-135m-instruct gemma-3-270m; do \
	    $(BIN)/python benchmarks/extraction.py --model $$m --out benchmarks/results/extraction-$$m.json || exit 1; \
	    $(BIN)/python benchmarks/scan.py --model $$m --out benchmarks/results/scan-$$m.json || exit 1; \
	    $(BIN)/python benchmarks/steering.py --model $$m --out benchmarks/results/steering-$$m.json || exit 1; done
	@$(BIN)/python benchmarks/watching.py --out benchmarks/results/watching-smollm2-135m-instruct.json
	@$(BIN)/python benchmarks/replies.py --out benchmarks/results/replies-smollm2-135m-instruct.json
	@$(BIN)/python benchmarks/refits.py --blocks 30 --out benchmarks/results/refits-smollm2-135m-instruct.json
	@$(BIN)/python benchmarks/derive.py --out benchmarks/results/derive-smollm2-135m-instruct.json
	@$(BIN)/python benchmarks/algebra.py --whole --repeats 3 --out benchmarks/results/algebra.json
	@$(BIN)/python benchmarks/large.py --out benchmarks/results/large.json
	@$(BIN)/python benchmarks/widget.py --out benchmarks/results/widget.json

clean: ## remove the environments and what the tools left
	rm -rf .venv $(COMPAT) $(WHEEL) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf docs/api/*.rst docs/course/*.ipynb docs/_static/plotly.min.js
	find . -name __pycache__ -prune -exec rm -rf {} +

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "emolens needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	    echo "Name one: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }

$(BIN)/installed: pyproject.toml constraints.txt | python
	@echo "== installing into .venv (a few minutes, once)"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) install -c constraints.txt -e '.[notebooks,inspect,ray,umap,docs,dev]'
	@touch $@

$(COMPAT)/installed: pyproject.toml constraints.txt compat/requirements.txt | python
	@echo "== installing into $(COMPAT), with TransformerLens 3 (a few minutes, once)"
	@rm -rf $(COMPAT)
	@$(PYTHON) -m venv $(COMPAT)
	@grep -v '^transformer-lens==' constraints.txt > $(COMPAT)/constraints.txt
	@$(COMPAT)/bin/python $(PIP) install -c $(COMPAT)/constraints.txt -r compat/requirements.txt
	@$(COMPAT)/bin/python $(PIP) install --no-deps -e .
	@touch $@

$(WHEEL)/installed: $(BIN)/installed pyproject.toml constraints.txt $(shell find emolens -name '*.py' -o -name '*.pyi' -o -name '*.js' -o -name '*.css')
	@echo "== building the wheel, and installing it alone into $(WHEEL)"
	@rm -rf $(WHEEL) dist build/lib build/bdist.*
	@$(BIN)/python -m build -q --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*
	@$(PYTHON) -m venv $(WHEEL)
	@$(WHEEL)/bin/python $(PIP) install -c constraints.txt dist/*.whl
	@touch $@
