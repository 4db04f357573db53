# Each target is one command of tools/task.py, which does its own set-up: a machine without make can call it directly.
PYTHON ?= python3
ARGS ?=

.PHONY: help demo test lab docs readme notebooks test-on clean
help: ; @$(PYTHON) tools/task.py --help
demo test lab docs readme notebooks clean: ; @$(PYTHON) tools/task.py $@ $(ARGS)
# make test-on PYTHON=python3.13 FLOOR=1: an environment of its own, FLOOR=1 with the oldest versions supported (tools/floor.txt)
test-on: ; @$(PYTHON) tools/task.py test --apart $(if $(FLOOR),--floor) $(ARGS)
