# One command for each job; scripts/ does the work. STACK=<team> chooses the stack for commands that work
# on one stack; the other commands refuse it.
.DEFAULT_GOAL := help
.PHONY: help up team preview drift kit ci status backup restore free down purge images sbom audit test trials bench

help: ## list all commands
	@sed -n 's/^\([a-z]*\): ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

up: ## from a fresh machine to a builder and a first build; running it again changes nothing
	@scripts/up

team: ## a builder for one more team: make team NAME=web; running it again changes nothing
	@scripts/team

preview: ## show in words what pulumi up would do; for a stack of your own: make preview STACK=team-a
	@scripts/preview

drift: ## show what on the host differs from the stack; FIX=yes make drift repairs it
	@scripts/drift

kit: ## write the client kit for a key's owner: make kit KEY=ada
	@scripts/client kit --key "$(KEY)"

ci: ## write the files for a CI: make ci KIND=github OUT=../app IMAGE=ghcr.io/acme/app; KEYLESS=yes needs no key
	@scripts/client ci $(KIND) $(if $(KEYLESS),--keyless) $(if $(OUT),--out "$(OUT)") $(if $(IMAGE),--image "$(IMAGE)")

status: ## show cache, builds, keys and disk of the builder; as a page: make status HTML=status.html
	@scripts/client status $(if $(HTML),--html "$(HTML)")

backup: ## write the cache to a file: make backup FILE=cache.tar
	@scripts/backup

restore: ## replace the cache by the one in such a file: make restore FILE=cache.tar
	@scripts/restore

free: ## delete what is in the image store that is not in use (imageStore)
	@scripts/free

down: ## remove the builder; the cache stays, unless keepCache is false
	@scripts/down

purge: ## ask, then delete everything including the caches; one stack: make purge STACK=web
	@scripts/purge

images: ## pin the images by their current digests, and show what changed
	@scripts/images

sbom: ## write what runs, package by package, to .state/sbom (CycloneDX)
	@scripts/sbom

audit: ## look for known vulnerabilities in the program's Python packages and in the images
	@scripts/audit

test: ## run lint, type checks, unit and engine tests, with all their set-up
	@scripts/test

trials: ## run the long versions of the load tests; results go to docs/trials.md and docs/scale.md
	@scripts/trials

bench: ## compare its speed with the alternatives, for docs/speed.md; SHORT=yes takes a few minutes
	@scripts/bench
