"""Write the files with which a CI builds on the builder.

The job of every kind of CI sources the same ci/builder.sh (from builder.sh) and runs the same lines
(job.sh); the file around them is one of templates/. In all of them `@name@` stands for a value. If
it is alone on its line, every line of the value gets the indentation of that line. A line that
starts with `@key|` is only for jobs with a key, one that starts with `@token|` only for jobs with a
token.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from client.stack import Stack, StackError
from components.layout import GATEWAY_SOCKETS

JOB_IMAGE = "docker:29-cli"
"""Image of the jobs that run in a container; it has docker, buildx, ssh and git."""

_FOLDER = Path(__file__).parent
_SNIPPET = {"ci/builder.sh": "builder.sh"}

KINDS: dict[str, dict[str, str]] = {
    "gitlab": {".gitlab-ci.yml": "templates/gitlab.yml", **_SNIPPET},
    "gitlab-runner": {
        ".gitlab-ci.yml": "templates/gitlab-runner.yml",
        "config.toml": "templates/gitlab-runner.toml",
        "ssh_config": "templates/gitlab-runner.ssh_config",
    },
    "github": {".github/workflows/image.yml": "templates/github.yml", **_SNIPPET},
    "circleci": {".circleci/config.yml": "templates/circleci.yml", **_SNIPPET},
    "buildkite": {".buildkite/pipeline.yml": "templates/buildkite.yml", **_SNIPPET},
    "jenkins": {"Jenkinsfile": "templates/Jenkinsfile", **_SNIPPET},
    "bitbucket": {"bitbucket-pipelines.yml": "templates/bitbucket.yml", **_SNIPPET},
    "forgejo": {".forgejo/workflows/image.yml": "templates/forgejo.yml", **_SNIPPET},
    "gitea": {".gitea/workflows/image.yml": "templates/forgejo.yml", **_SNIPPET},
    "woodpecker": {".woodpecker/image.yml": "templates/woodpecker.yml", **_SNIPPET},
    "drone": {".drone.yml": "templates/drone.yml", **_SNIPPET},
}
"""The files of each kind of CI: path in the repository, and the template in this folder."""
KEYLESS = ("gitlab", "github", "forgejo", "buildkite", "circleci", "bitbucket")
"""The kinds that give their jobs tokens."""


def render(kind: str, stack: Stack, image: str, audience: str = "") -> dict[str, str]:
    """The files of one kind, by their path in the repository.

    `image` is the image that jobs push, without a tag; a CI with its own registry does not need it.
    With the audience of an identity, jobs log in with a token for it instead of a key.
    """
    values = {
        "alias": stack.alias,
        "ssh_config": str(stack.outputs["sshConfig"]).strip(),
        "known_hosts": stack.known_hosts.strip(),
        "sockets": GATEWAY_SOCKETS,
        "audience": audience,
        "oidc": _bitbucket_oidc(audience),
        "image": image,
        "registry": image.split("/")[0],
        "job_image": JOB_IMAGE,
        "job": (_FOLDER / "job.sh").read_text().strip(),
    }
    if kind == "buildkite":  # its agent replaces $NAME before the job runs, and $$ by $
        values["job"] = values["job"].replace("$", "$$")
    return {
        path: _fill(_for_login((_FOLDER / template).read_text(), bool(audience)), values)
        for path, template in KINDS[kind].items()
    }


def _for_login(template: str, with_token: bool) -> str:
    """The lines of a template for jobs with a token, or with a key, without their marks."""
    own, other = ("@token|", "@key|") if with_token else ("@key|", "@token|")
    lines = template.splitlines(keepends=True)
    return "".join(line.removeprefix(own) for line in lines if not line.startswith(other))


def _bitbucket_oidc(audience: str) -> str:
    """What makes Bitbucket give a step a token for this audience."""
    own = audience.startswith("ari:cloud:bitbucket:")  # every token has this audience
    return "oidc: true" if own else f"oidc:\n  audiences:\n    - '{audience}'"


def _audience(stack: Stack, kind: str, name: str) -> str:
    """The audience of the identity of this name, or of all identities. Raises StackError."""
    if kind not in KEYLESS:
        raise StackError(
            f"--keyless: {kind} gives its jobs no tokens; allowed: {', '.join(KEYLESS)}; next: "
            "give the CI a key (docs/ci.md)"
        )
    audiences = {entry["name"]: str(entry["audience"]) for entry in stack.identities}
    if name and name not in audiences:
        raise StackError(
            f"--identity {name}: this stack has no such identity; allowed: "
            f"{', '.join(sorted(audiences)) or 'there is none'}; next: add it to identities"
        )
    chosen = {audiences[name]} if name else {*audiences.values()}
    if len(chosen) != 1:
        raise StackError(
            f"--keyless: the setting identities has {len(chosen)} audiences; next: "
            + ("name one with --identity" if chosen else "add an identity (docs/access.md)")
        )
    return chosen.pop()


def _fill(template: str, values: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[3]:
            return values[match[3]]
        return "\n".join(f"{match[1]}{line}" for line in values[match[2]].splitlines())

    return re.sub(r"^([ \t]*)@([a-z_]+)@$|@([a-z_]+)@", value, template, flags=re.MULTILINE)


def _image(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not REGISTRY/NAME without a tag, such as registry.example.com/team/app"
        )
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m client ci`."""
    parser.add_argument("kind", choices=KINDS, help="the CI")
    parser.add_argument("--out", type=Path, help="folder of the repository; default: print them")
    parser.add_argument(
        "--image",
        type=_image,
        default="registry.example.com/team/app",
        help="the image to push, without a tag; GitLab needs none",
    )
    parser.add_argument(
        "--keyless", action="store_true", help="jobs log in with a token of the CI, without a key"
    )
    parser.add_argument(
        "--identity", default="", help="the identity whose audience jobs ask for, if there are more"
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the files, or write them. Raises StackError if one exists and differs."""
    audience = _audience(stack, options.kind, options.identity) if options.keyless else ""
    files = render(options.kind, stack, options.image, audience)
    if options.out is None:
        for path, text in files.items():
            print(f"# ==> {path}\n{text}")
        return 0
    targets = {options.out / path: text for path, text in files.items()}
    for target, text in targets.items():
        if target.exists() and target.read_text() != text:
            raise StackError(
                f"{target} exists and differs, so nothing was written; next: move it away, or "
                "print the new file without --out and merge them"
            )
    for target, text in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        print(target)
    return 0
