# make demo    sets everything up and runs the whole road on simulated scans
# make test    sets everything up and runs the tests
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two halves of the tests, each in its order; who is done first takes from the other's end.
TEST_PROCESSES ?= 2
READY = $(VENV)/.installed

.PHONY: install demo test test-soak test-cluster lint wheel clean

install: $(READY)

# The constraints file names the tested versions: without it pip may fetch another torch.
$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: install
	$(BIN)/srct demo -o demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

test-soak: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout 7200

test-cluster: install
	tests/cluster/install.sh
	SRCT_REQUIRE_CLUSTER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/cluster --timeout 900

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info $(VENV)
