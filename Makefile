# make demo   train, measure, prune a small network on the bundled digits, start to end
# make test   run the tests that a change needs, by two processes
# make test-slow   run the rest: kills, a Ray cluster, Pythons without packages, most of the converters' cases
# make lint   check rules, import order and types
# All make .venv from requirements.txt first (test-slow adds Ray, lint its tools); PYTHON names the Python 3.11 to make it with.

PYTHON ?= python3.11
PY := .venv/bin/python

# The size of the demo; `make demo-small` is what continuous integration runs.
EPOCHS ?= 15
NETWORK ?= --depth=10 --width=1
JUDGED ?= 20
STEPS ?= --init_red_fact=10 --short_term_fine_tune=20

.PHONY: demo demo-small lint test test-slow clean

.venv/installed: requirements.txt
	command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-ray: .venv/installed requirements-ray.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

test: .venv/installed
	$(PY) -m pytest -m "not slow" --numprocesses=2 --dist=loadfile

test-slow: .venv/installed-ray
	$(PY) -m pytest -m slow --numprocesses=2 --dist=loadgroup

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/basedpyright --pythonpath $(PY)

# In a folder of its own, with the commands that a user would type.
demo: .venv/installed
	rm -rf demo && mkdir demo
	@echo "\n--- 1. train WideResNet on scikit-learn's digits"
	cd demo && ../$(PY) ../train.py $(NETWORK) --dataset=digits --epochs=$(EPOCHS) --batch_size=32 \
		--learning_rate=0.05 --lr_type=cosine --save_file=digits
	@echo "\n--- 2. measure every layer at every width on this machine"
	cd demo && ../$(PY) ../compute_table.py $(NETWORK) --mode=build --save_file=here
	@echo "\n--- 3. prune 40% of the latency, uniformly, with NetAdapt and by trading; retrain from scratch, export, measure"
	cd demo && ../$(PY) ../compare.py --base_model=digits --perf_table=here --pruning_facts 0.4 --seeds 0 \
		--methods unpruned uniform netadapt 'trade --scratch_epochs=3' --prune_flags="--batch_size=32 $(STEPS)" \
		--train_flags="--epochs=$(EPOCHS) --batch_size=32 --learning_rate=0.05 --lr_type=cosine" --save_file=digits
	@echo "\n--- 4. hold the table's predictions to random networks, timed on this machine"
	cd demo && ../$(PY) ../compute_table.py $(NETWORK) --mode=validate --perf_table=here --num_networks=$(JUDGED) \
		--patience=30
	@echo "\nEverything is in demo/: look at demo/comparisons/digits/digits.png, and at history/ beside it"

demo-small:
	$(MAKE) demo EPOCHS=4 NETWORK="--depth=10 --width=0.5" JUDGED=5 \
		STEPS="--init_red_fact=4 --short_term_fine_tune=5"

clean:
	rm -rf .venv demo
