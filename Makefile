# `make demo` segments the sample scans, `make demo-video` recognises the digits spoken in the sample clips,
# `make label` starts MONAI Label's server with BUNDLE (one or several) for the images in STUDIES at PORT,
# `make test` and `make test-label` run what continuous integration runs, `make docs` builds the pages.
PYTHON ?= python3
VENV ?= .venv
BUNDLE := bundles/hippocampus_mr_c2fnas_cakes
VIDEO := bundles/video_cakes_resnet50
BIN := $(VENV)/bin
LABEL := .venv-label
STUDIES := studies
PORT := 8000

.PHONY: demo demo-video label label-environment test test-label test-oldest docs clean

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

label: $(LABEL)/installed
	$(LABEL)/bin/python -m cakes_monai label $(foreach bundle,$(BUNDLE),--bundle $(bundle)) --studies $(STUDIES) \
		--port $(PORT)

label-environment: $(LABEL)/installed

# The tests of MONAI Label are among all tests; where it is not installed they are skipped.
test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --max-worker-restart 0 --dist loadfile $(if $(SELECT),-m "$(SELECT)")

test-label: BORROW := $(VENV)
test-label: $(VENV)/installed-test $(LABEL)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m label

# The lower bounds of setup.cfg, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	sed -n -e '/^install_requires/,/^$$/s/^ *\([a-z-]*\)>=/\1==/p' -e '/^video =/,/^test =/s/^ *\([a-z-]*\)>=/\1==/p' \
		setup.cfg > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet -r .venv-oldest/requirements.txt pytest==8.2 pytest-xdist==3.6.1 \
		jsonschema==4.23
	.venv-oldest/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n 2 --max-worker-restart 0 --dist loadfile -m "not label" -o filterwarnings=default  # old libraries warn of each other

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build
	@echo "The pages are in docs/_build/index.html."

clean:
	rm -rf $(VENV) $(LABEL) .venv-oldest demo demo-video docs/_build docs/api build *.egg-info

$(VENV)/installed: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-%: $(VENV)/installed setup.cfg
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@

# MONAI Label needs older versions of some packages. BORROW=.venv spares installing again what that environment has.
$(LABEL)/installed: requirements-label.txt setup.cfg
	$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and \
		'MONAI Label needs Python 3.11 or 3.12, this is another: give one with PYTHON=python3.12')"
	$(PYTHON) -m venv $(LABEL)
	$(if $(BORROW),$(BORROW)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(LABEL)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth)
	$(LABEL)/bin/python -m pip install --quiet --upgrade pip
	$(LABEL)/bin/python -m pip install --quiet -r requirements-label.txt
	$(LABEL)/bin/python -m pip install --quiet --no-deps monailabel==0.8.5 -e .
	touch $@
