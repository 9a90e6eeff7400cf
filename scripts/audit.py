"""Audit the program's Python packages with pip-audit.

Usage: audit.py, in the environment to audit

pip-audit itself reports "No known vulnerabilities found" when the service knows none of the
packages, and ends with a traceback when there is no service. This says NOT AUDITED in both cases.

Exit code 1: a package is vulnerable; else 0.
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
    audited = f"{len(known)} packages audited, nothing known"
    return 0, [audited + (f"; not audited: {', '.join(unknown)}" if unknown else "")]


def main() -> int:
    """Audit the packages of this environment; returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format=json"]
    try:
        answer = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_SECONDS
        )
        report = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        print(f"NOT AUDITED: the advisory service has not answered within {_SECONDS} s")
        return 0
    except ValueError:
        why = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"NOT AUDITED: the advisory service cannot be reached ({why[:200]})")
        return 0
    code, lines = verdict(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
