#!/bin/sh
# @source@
exec cat /app/settings
