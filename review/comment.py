"""The one comment of a pull or merge request: added once, then edited in place."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

_MARK = "<!-- docker-build-machine: preview -->"
_PER_PAGE = 100
# GitHub takes 65536 characters, GitLab a million.
_LONGEST = 60_000

Comments = list[dict[str, Any]]


def main() -> None:
    """Put standard input into the comment, of the request that the CI's variables name."""
    body = f"{_MARK}\n{sys.stdin.read()}"
    if len(body) > _LONGEST:
        body = body[:_LONGEST] + "\n\n… the rest is in the job's log.\n"
    environment = os.environ
    if environment.get("GITHUB_API_URL"):
        repository = f"{environment['GITHUB_API_URL']}/repos/{environment['GITHUB_REPOSITORY']}"
        headers = {"Authorization": f"Bearer {environment['GITHUB_TOKEN']}"}
        comments = f"{repository}/issues/{environment['PULL_REQUEST']}/comments"
        write(comments, f"{repository}/issues/comments", headers, body, change="PATCH")
    else:
        project = (
            f"{environment['CI_API_V4_URL']}/projects/{environment['CI_MERGE_REQUEST_PROJECT_ID']}"
        )
        headers = {"PRIVATE-TOKEN": environment["GITLAB_TOKEN"]}
        notes = f"{project}/merge_requests/{environment['CI_MERGE_REQUEST_IID']}/notes"
        write(notes, notes, headers, body, change="PUT")


def write(comments: str, single: str, headers: dict[str, str], body: str, *, change: str) -> None:
    """Change our comment among those at `comments`, or add it.

    Raises urllib.error.HTTPError when the server refuses.
    """
    page = 1
    while True:
        listed: Comments = _request(f"{comments}?per_page={_PER_PAGE}&page={page}", headers)
        ours = [comment["id"] for comment in listed if comment["body"].startswith(_MARK)]
        if ours:
            _request(f"{single}/{ours[0]}", headers, {"body": body}, change)
            return
        if len(listed) < _PER_PAGE:
            _request(comments, headers, {"body": body}, "POST")
            return
        page += 1


def _request(
    url: str, headers: dict[str, str], content: dict[str, str] | None = None, method: str = "GET"
) -> Any:
    request = urllib.request.Request(
        url,
        data=None if content is None else json.dumps(content).encode(),
        headers={
            **headers,
            "Content-Type": "application/json",
            "User-Agent": "docker-build-machine",
        },
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read() or "null")


if __name__ == "__main__":
    main()
