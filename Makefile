# One word for each job; the work is done in machine/.
.DEFAULT_GOAL := help
.PHONY: help up down purge test

help: ## show this
	@sed -n 's/^\([a-z]*\): ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

up: ## from a fresh machine to a builder and a first build; again: nothing changes
	@machine/up

down: ## take the builder away, keep its cache
	@machine/down

purge: ## take everything away, the cache too, after asking
	@machine/purge

test: ## lint, types, unit and engine tests, with all their set-up
	@machine/test
