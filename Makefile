# Everything that one does with this project. `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

COVERAGE ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python $(if $(COVERAGE),-m coverage run) -m pytest

.PHONY: demo test test-processors test-client load notebooks serve check wheels bench bench-influence protos format clean

demo: .venv/ready  ## explain, attack and dream on real photos, write demo-out/index.html; ARGS="--model resnet18"
	$(BIN)/gradserve demo --out demo-out $(ARGS)

# Three processes, since many tests wait for servers (tests/conftest.py says which runs what), then what measures time by
# itself: all of that is in tests/load.
# Either part may have none of the tests that ARGS choose: status 5.
test: .venv/ready  ## all tests and notebooks; ARGS="tests/engine -k take"; COVERAGE=yes tells which share of the lines they run
	$(if $(COVERAGE),$(BIN)/coverage erase)
	$(PYTEST) -n 3 --dist loadscope -m "not alone" $(ARGS) || test $$? -eq 5
	$(PYTEST) -m alone $(or $(ARGS),tests/load) || test $$? -eq 5
	$(if $(COVERAGE),$(BIN)/coverage combine --quiet)
	$(if $(COVERAGE),@printf "percentage of the lines of client and server that ran: "; $(BIN)/coverage report --format=total)

load: .venv/ready  ## soaks, overload and fuzz, each in its long form: about half an hour
	GRADSERVE_LOAD=yes $(PYTEST) --timeout 3600 $(or $(ARGS),tests/load $(shell grep -rl --exclude-dir load "^from lengths import" tests))

test-processors: .venv/ready  ## tests of kernels, precisions, engine and company as on older processors
	OMP_NUM_THREADS=1 $(BIN)/python tests/processors.py $(ARGS)

test-client: .venv/ready  ## the client's tests without the server, at its oldest and newest packages; ARGS="protobuf4"; ARGS=--short: the least
	$(BIN)/python tests/client/compatibility.py $(ARGS)

notebooks: .venv/ready  ## run the notebooks of examples/ and keep their pictures in them
	$(BIN)/python tests/notebooks.py

serve-ray: .venv/ready  ## a Ray cluster of two nodes on this machine, and a server whose workers it places
	$(BIN)/python tests/ray_cluster.py serve $(ARGS)

serve: .venv/ready  ## the server; ARGS="--model resnet50 --port 50051"
	$(BIN)/gradserve serve $(ARGS)

check: .venv/ready  ## style, types, generated code in step, protos compatible with the published ones; the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/sync_client.py --check
	$(BIN)/python protos/parameter_types.py --check
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/published.binpb
	$(BIN)/python tests/house.py

wheels: .venv/ready  ## build both wheels into dist/, install them as users do, and ask a server for a prediction
	$(BIN)/python tests/wheels.py

bench: .venv/bench  ## benchmarks, minutes; they print, they never fail for being slow
	$(BIN)/python -m tests.bench $(ARGS)

bench-influence: .venv/bench  ## influence beside real retraining: trains about 300 small networks; ARGS="--part lds"
	$(BIN)/python -m tests.bench.influence $(ARGS)

protos: .venv/ready  ## regenerate the stubs, the client from its form for asyncio, and the types of its parameters
	$(BIN)/python protos/generate.py
	$(BIN)/python protos/sync_client.py
	$(BIN)/python protos/parameter_types.py

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo-out build dist server/build

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# The virtual environment, made anew only when what it holds has changed. The stubs' compiler lives apart in it,
# because its requirements would hold back everything else. The client comes first: the server asks for its version.
.venv: .venv/ready
.venv/ready: pyproject.toml server/pyproject.toml constraints.txt
	@echo "installing into .venv: some minutes and 6 GB the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e './server[ray,otel,timm,hf,tsne]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/protoc grpcio-tools==1.59.0
	touch $@
