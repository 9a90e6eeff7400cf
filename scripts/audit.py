"""Ask an advisory service about the Python packages of this environment, with pip-audit.

Usage: audit.py

Exit code 1: a package has a known vulnerability. Exit code 0: none has, or the service cannot tell,
which the output says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_SECONDS = 120


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code for pip-audit's report, and the lines to print."""
    packages = report["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        return 0, ["NOT AUDITED: the advisory service has none of the packages"]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}"
        for package in known
        for found in package["vulns"]
    ]
    if lines:
        return 1, [*lines, "next: raise the versions in the requirements files"]
    summary = f"{len(known)} packages audited, nothing known"
    return 0, [summary + (f"; not audited: {', '.join(unknown)}" if unknown else "")]


def main() -> int:
    """Audit the packages of this environment; returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format=json"]
    try:
        audit = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_SECONDS
        )
        report = json.loads(audit.stdout)
    except subprocess.TimeoutExpired:
        print(f"NOT AUDITED: the advisory service has not answered within {_SECONDS} s")
        return 0
    except ValueError:
        why = (audit.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"NOT AUDITED: the advisory service cannot be reached ({why[:200]})")
        return 0
    code, lines = verdict(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
