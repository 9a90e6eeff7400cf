#!/usr/bin/env bash
# The gateway's health check with the setting metrics. When it succeeds, it writes the file `connections`:
# `refused COUNT`, which begins with 0 in each container, and a line `session NAME` for each open connection.
# Usage: report FOLDER
set -euo pipefail
folder=$1

bash /usr/local/lib/gateway/health
session-monitor count >"$folder/connections.new"
mv -f "$folder/connections.new" "$folder/connections"
