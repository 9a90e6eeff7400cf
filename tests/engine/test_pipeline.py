"""The commands that a CI runs, on two commits of this repository in a separate worktree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import venv
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml

from tests.engine.conftest import PROJECT, ROOT, Builder, NewBuilder, Result, passed, run

WORKFLOW, GITLAB = ROOT / ".github" / "workflows" / "stacks.yml", ROOT / ".gitlab-ci.yml"


@pytest.fixture(scope="module")
def policy_environment() -> Path:
    """The policy pack's own Python environment, as review/pipeline makes it."""
    folder = ROOT / "policy" / ".venv"
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    requirements = str(ROOT / "policy" / "requirements.txt")
    passed(run(str(folder / "bin" / "pip"), "install", "--quiet", "--requirement", requirements))
    return folder


@dataclass
class Repository:
    """A worktree with a stack, deployed from the commit `base`; `head` changes it."""

    tree: Path
    builder: Builder
    base: str
    head: str

    def at(self, commit: str) -> None:
        git(self.tree, "checkout", "--quiet", "--detach", commit)

    def pipeline(self, *words: str, env: dict[str, str] | None = None, **options: Any) -> Result:
        return run("review/pipeline", *words, cwd=self.tree, env=env or self.builder.env, **options)


def git(tree: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return passed(run("git", *identity, *words, cwd=tree)).strip()


@pytest.fixture(scope="module")
def repository(
    new_builder: NewBuilder, policy_environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repository]:
    tree, builder = tmp_path_factory.mktemp("w") / "tree", new_builder()
    settings = tree / f"Pulumi.{builder.stack}.yaml"

    def commit() -> str:
        config = {f"{PROJECT}:{name}": value for name, value in builder.settings.items()}
        text = yaml.safe_load(salt.read_text())
        settings.write_text(yaml.safe_dump({**text, "config": config}))
        git(tree, "add", "--all")
        git(tree, "commit", "--quiet", "--message", "settings")
        return git(tree, "rev-parse", "HEAD")

    # A commit of the working copy as it is, without changing the working copy.
    git(
        ROOT,
        "worktree",
        "add",
        "--quiet",
        "--detach",
        str(tree),
        git(ROOT, "stash", "create") or "HEAD",
    )
    try:
        salt = builder.folder / "project" / f"Pulumi.{builder.stack}.yaml"
        (tree / "policy" / ".venv").symlink_to(policy_environment)
        base = commit()
        builder.add_key("bob")
        builder.settings |= {"cpus": "1.5", "leftoverAge": "2d"}
        head = commit()
        repository = Repository(tree, builder, base, head)
        repository.at(base)
        passed(repository.pipeline("up", builder.stack))
        repository.at(head)
        yield repository
    finally:
        run("git", "worktree", "remove", "--force", str(tree), cwd=ROOT)


def table(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("| ")]


def row(output: str, name: str) -> str:
    (found,) = (row for row in table(output) if row.startswith(f"| **{name}** | "))
    return found


def test_only_the_stack_that_differs_is_affected(repository: Repository) -> None:
    stack = repository.builder.stack
    assert json.loads(passed(repository.pipeline("stacks", repository.base))) == [stack]
    assert json.loads(passed(repository.pipeline("stacks", repository.head))) == []


def test_a_preview_shows_the_change_and_changes_nothing(repository: Repository) -> None:
    before = repository.builder.state()
    result = repository.pipeline("preview", repository.base)
    shown = passed(result)
    assert re.search(r"\| key \*\*added\*\* \| `bob` `SHA256:\S{43}`", shown)
    assert '| `cpus` | `""` → `1.5` |' in shown
    assert "recreates the daemon: builds in flight get 10m to end" in shown
    assert repository.builder.env["PULUMI_CONFIG_PASSPHRASE"] not in shown + result.stderr
    assert repository.builder.state() == before


def test_the_preview_of_a_fork_compares_declarations_without_secrets_state_or_host(
    repository: Repository,
) -> None:
    with_state = passed(repository.pipeline("preview", repository.base))
    nowhere = {
        "PULUMI_BACKEND_URL": "file:///nowhere",
        "PULUMI_CONFIG_PASSPHRASE": "",
        "DOCKER_HOST": "unix:///nowhere.sock",
    }
    without = passed(repository.pipeline("fork", repository.base, env=nowhere))
    means, changes = row(with_state, "it means"), row(without, "it changes")
    assert [line for line in table(without) if line != changes] == [
        line for line in table(with_state) if line != means
    ]
    assert "`daemon` (cpus)" in changes
    assert "`keys` (envs, uploads)" in changes
    assert "gateway" not in means + changes
    # It depends on the host's disk whether the janitor changes.
    assert "restarts the janitor" in means
    assert "janitor" not in changes
    assert re.findall(r"\*\*perhaps\*\* `(\S+)`", without) == ["builder-janitor"]
    assert "A preview with the state shows what restarts" in without
    listed = git(ROOT, "worktree", "list")
    assert "/base" not in listed


def test_the_policy_pack_stops_a_stack_that_breaks_it(
    repository: Repository, policy_environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    (tmp_path / "__main__.py").write_text(
        "import pulumi_docker as docker\n"
        "socket = '/var/run/docker.sock'\n"
        "docker.Container('eve', image='eve:1', privileged=True, volumes=[\n"
        "    docker.ContainerVolumeArgs(host_path=socket, container_path=socket)])\n"
    )
    env = {**repository.builder.env, "PULUMI_BACKEND_URL": f"file://{tmp_path}"}
    pulumi = ("pulumi", "--non-interactive")
    preview = (*pulumi, "preview", "--policy-pack", str(ROOT / "policy"))
    passed(run(*pulumi, "stack", "init", "eve", cwd=tmp_path, env=env))
    result = run(*preview, cwd=tmp_path, env=env)
    assert result.returncode != 0
    for rule in ("nothing-of-the-host-is-mounted", "privileged-where-declared"):
        assert f"[mandatory]  {rule}  (docker:index:Container: eve)" in result.stdout

    # In another program the pack is for what belongs to a builder.
    (tmp_path / "Pulumi.yaml").write_text("name: other\nruntime: python\n")
    passed(run(*pulumi, "stack", "init", "eve", cwd=tmp_path, env=env))
    assert "docker-build-machine@v" in passed(run(*preview, cwd=tmp_path, env=env))


def test_up_applies_the_change_and_then_there_is_no_drift(repository: Repository) -> None:
    passed(repository.pipeline("up", repository.builder.stack))
    assert "nothing restarts" in passed(repository.pipeline("preview", repository.base))
    assert "The host is as the stack says." in passed(repository.pipeline("drift"))
    assert passed(repository.pipeline("status")) == ""


def test_gitlab_gets_a_job_for_each_stack_that_starts_by_hand(
    repository: Repository, tmp_path: Path
) -> None:
    stack = repository.builder.stack
    for words, when in (({}, "manual"), ({"APPLY": "automatic"}, "on_success")):
        env = {**repository.builder.env, "PULUMI_ORG": "acme", **words}
        child = tmp_path / f"{when}.yml"
        child.write_text(passed(repository.pipeline("gitlab", repository.base, env=env)))
        job = yaml.safe_load(child.read_text())[f"up {stack}"]
        assert (job["when"], job["resource_group"]) == (when, f"stack-{stack}")
        assert job["script"][-1] == f"review/pipeline up {stack}"
        assert job["id_tokens"]["PULUMI_ID_TOKEN"]["aud"] == "urn:pulumi:org:acme"
    none = tmp_path / "none.yml"
    none.write_text(passed(repository.pipeline("gitlab", repository.head)))
    passed(
        run(
            "check-jsonschema",
            "--builtin-schema",
            "vendor.gitlab-ci",
            *map(str, tmp_path.glob("*.yml")),
        )
    )


def test_the_files_of_github_and_gitlab_are_valid() -> None:
    passed(run("actionlint", str(WORKFLOW)))
    passed(run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)))
    passed(run("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", str(GITLAB)))


def test_the_files_of_github_and_gitlab_call_the_one_script_and_pin_what_they_use() -> None:
    for file in (WORKFLOW, GITLAB):
        assert "pulumi " not in re.sub("#.*", "", file.read_text())
    used = re.findall(r"uses: (\S+)", WORKFLOW.read_text())
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)


class _Comments(BaseHTTPRequestHandler):
    """The part of both APIs that the comment needs, with one list of comments."""

    comments: list[dict[str, Any]]
    headers_seen: list[str]

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> str:
        self.headers_seen.append(self.headers.get("Authorization") or self.headers["PRIVATE-TOKEN"])
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def do_GET(self) -> None:
        page = int(re.findall(r"[?&]page=(\d+)", self.path)[0])
        self._answer(self.comments[(page - 1) * 100 : page * 100])

    def do_POST(self) -> None:
        self.comments.append({"id": len(self.comments), "body": self._body()})
        self._answer({})

    def do_PATCH(self) -> None:
        self.comments[int(self.path.rsplit("/", 1)[-1])]["body"] = self._body()
        self._answer({})

    do_PUT = do_PATCH

    def log_message(self, *_: Any) -> None:
        return


@pytest.mark.parametrize("platform", ["github", "gitlab"])
def test_there_is_one_comment_and_it_is_edited_in_place(platform: str) -> None:
    _Comments.comments = [{"id": n, "body": f"comment {n}"} for n in range(100)]
    _Comments.headers_seen = []
    with HTTPServer(("127.0.0.1", 0), _Comments) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        if platform == "github":
            env |= {
                "GITHUB_API_URL": url,
                "GITHUB_REPOSITORY": "acme/stacks",
                "GITHUB_TOKEN": "t0ken",
                "PULL_REQUEST": "7",
            }
        else:
            env |= {
                "CI_API_V4_URL": url,
                "CI_MERGE_REQUEST_PROJECT_ID": "3",
                "CI_MERGE_REQUEST_IID": "7",
                "GITLAB_TOKEN": "t0ken",
            }
        for page in ("first", "second"):
            subprocess.run(
                [str(ROOT / "review" / "pipeline"), "comment"],
                env=env,
                check=True,
                input=page,
                text=True,
            )
        server.shutdown()
    assert len(_Comments.comments) == 101
    assert _Comments.comments[100]["body"].endswith("second")
    assert all(header.endswith("t0ken") for header in _Comments.headers_seen)


class _Cloud(BaseHTTPRequestHandler):
    """The answers of Pulumi Cloud and GitHub while a job logs in."""

    forms: list[dict[str, str]]
    requests: list[tuple[str, str]]

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers.get("Authorization", "")))
        if self.path.startswith("/github"):
            self._answer({"value": identity("github")})
        else:
            self._answer({"id": "1", "githubLogin": "acme", "name": "acme", "organizations": []})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/oauth/token":
            self.forms.append(dict(parse_qsl(text)))
            self._answer({"access_token": "short-lived", "expires_in": 3600})
        else:
            self._answer({})

    def log_message(self, *_: Any) -> None:
        return


def identity(subject: str) -> str:
    """An unsigned JSON web token, which the CLI accepts; the real cloud checks signatures."""
    parts: tuple[dict[str, str], ...] = (
        {"alg": "none", "typ": "JWT"},
        {"sub": subject, "aud": "urn:pulumi:org:acme"},
    )
    coded = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, ""])


@pytest.mark.parametrize("platform", ["github", "gitlab", "none"])
def test_a_job_logs_in_with_its_identity_in_place_of_a_stored_token(
    platform: str, tmp_path: Path
) -> None:
    _Cloud.forms, _Cloud.requests = [], []
    with HTTPServer(("127.0.0.1", 0), _Cloud) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        env = {
            "PULUMI_ORG": "acme",
            "PULUMI_BACKEND_URL": url,
            "PULUMI_ACCESS_TOKEN": "",
            "PULUMI_HOME": str(tmp_path),
            "TMPDIR": str(tmp_path / "tmp"),
        }
        (tmp_path / "tmp").mkdir()
        if platform == "github":
            env |= {
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{url}/github?api-version=2.0",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
            }
        if platform == "gitlab":
            env["PULUMI_ID_TOKEN"] = identity("gitlab")
        result = run(str(ROOT / "review" / "pipeline"), "login", env=env)
        server.shutdown()
    assert result.returncode == 0, result.stderr
    credentials = tmp_path / "credentials.json"
    if platform == "none":
        assert not credentials.exists()
        return
    (form,) = _Cloud.forms
    assert form["audience"] == "urn:pulumi:org:acme"
    assert form["subject_token"] == identity(platform)
    assert form["requested_token_type"] == "urn:pulumi:token-type:access_token:organization"
    assert json.loads(credentials.read_text())["accessTokens"][url] == "short-lived"
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.is_file()]
    if platform == "github":
        assert ("/github?api-version=2.0&audience=urn:pulumi:org:acme", "bearer of-the-job") in (
            _Cloud.requests
        )


def test_the_jobs_that_need_the_state_have_an_identity() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    for name, job in jobs.items():
        has_state = "PULUMI_BACKEND_URL" in job["env"]
        assert has_state == (name in ("preview", "up", "drift"))
        assert (job["permissions"].get("id-token") == "write") == has_state
        assert ("PULUMI_ORG" in job["env"]) == has_state
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert (
        gitlab[".identity"]["id_tokens"]["PULUMI_ID_TOKEN"]["aud"] == "urn:pulumi:org:$PULUMI_ORG"
    )
    assert all(gitlab[name]["extends"] == ".identity" for name in ("preview", "drift"))


@pytest.mark.parametrize("words", [("status",), ("gitlab", "main")])
def test_an_unreadable_list_of_stacks_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    script = tmp_path / "review" / "pipeline"
    shutil.copy(ROOT / "review" / "pipeline", script)
    refused = run(str(script), *words)
    assert refused.returncode != 0
    assert "review" in refused.stderr
    assert refused.stdout == ""
