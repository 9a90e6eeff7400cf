#!/bin/sh
# As upstream's: a configuration file and the commands of registry are for it, anything else is run.
case ${1:-} in
*.yml | *.yaml) exec registry serve "$@" ;;
serve | garbage-collect | help | -*) exec registry "$@" ;;
*) exec "$@" ;;
esac
