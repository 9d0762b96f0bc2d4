# `make demo` segments the sample scans, `make demo-video` recognises the digits spoken in the sample clips,
# `make test` runs what continuous integration runs, `make docs` builds the pages.
PYTHON ?= python3
VENV ?= .venv
BUNDLE := bundles/hippocampus_mr_c2fnas_cakes
VIDEO := bundles/video_cakes_resnet50
BIN := $(VENV)/bin

.PHONY: demo demo-video test test-oldest docs clean

demo: $(VENV)/installed
	$(BIN)/python -m monai.bundle run --config_file $(BUNDLE)/configs/inference.json --bundle_root $(BUNDLE) \
		--output_dir demo
	@echo
	@echo "Label maps, pictures and volumes are in demo/:"
	@ls demo

demo-video: $(VENV)/installed-video
	$(BIN)/python -m monai.bundle run --config_file $(VIDEO)/configs/inference.json --bundle_root $(VIDEO) \
		--output_dir demo-video --draw true
	@echo
	@echo "Recognised digits and labelled videos are in demo-video/:"
	@ls demo-video

test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# The lower bounds of setup.cfg, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	sed -n -e '/^install_requires/,/^$$/s/^ *\([a-z-]*\)>=/\1==/p' -e '/^video =/,/^test =/s/^ *\([a-z-]*\)>=/\1==/p' \
		setup.cfg > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet -r .venv-oldest/requirements.txt pytest==8.2 pytest-xdist==3.6.1 \
		jsonschema==4.23
	.venv-oldest/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n 2 --dist loadfile -o filterwarnings=default  # old libraries warn of each other

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build
	@echo "The pages are in docs/_build/index.html."

clean:
	rm -rf $(VENV) .venv-oldest demo demo-video docs/_build docs/api build *.egg-info

$(VENV)/installed: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-%: $(VENV)/installed setup.cfg
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@
