# One word for each job; the work is done in scripts/. STACK=<team> chooses the stack of a word that is
# about one; the others refuse it.
.DEFAULT_GOAL := help
.PHONY: help up team preview drift kit ci status backup restore down purge images sbom audit test trials bench

help: ## show this
	@sed -n 's/^\([a-z]*\): ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

up: ## from a fresh machine to a builder and a first build; again: nothing changes
	@scripts/up

team: ## a builder of its own for one more team: make team NAME=web; again: nothing changes
	@scripts/team

preview: ## what pulumi up would do, for people; to a stack of your own: make preview STACK=team-a
	@scripts/preview

drift: ## what on the host differs from the stack; FIX=yes make drift mends it
	@scripts/drift

kit: ## write what a key's owner needs to build on the builder: make kit KEY=ada
	@scripts/client kit --key "$(KEY)"

ci: ## write files with which a CI builds on it: make ci KIND=github OUT=../app IMAGE=ghcr.io/acme/app
	@scripts/client ci $(KIND) $(if $(OUT),--out "$(OUT)") $(if $(IMAGE),--image "$(IMAGE)")

status: ## the builder at a glance: make status, make status HTML=status.html
	@scripts/client status $(if $(HTML),--html "$(HTML)")

backup: ## write the cache to a file: make backup FILE=cache.tar
	@scripts/backup

restore: ## put the cache of such a file in place: make restore FILE=cache.tar
	@scripts/restore

down: ## take the builder away; the cache stays, unless keepCache is false
	@scripts/down

purge: ## delete everything, the cache too, after asking; of one stack: make purge STACK=web
	@scripts/purge

images: ## pin the images by their digests of now, and show what changed
	@scripts/images

sbom: ## write what runs, package by package, to .state/sbom (CycloneDX)
	@scripts/sbom

audit: ## ask what is known against the program's own Python packages
	@scripts/audit

test: ## lint, types, unit and engine tests, with all their set-up
	@scripts/test

trials: ## the long versions of the tests that count; figures go to docs/trials.md
	@scripts/trials

bench: ## how fast it is, beside what else one would build on, into docs/speed.md; a few minutes: SHORT=yes
	@scripts/bench
