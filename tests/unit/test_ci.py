"""The files for each CI pass the schema or parser of that CI."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import tree_sitter
import tree_sitter_groovy
import yaml
from click.testing import CliRunner, Result

from client import ci, kit
from client.stack import Stack, StackError

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA8mWEwgv2hCdQZQ3R4lVxxO1OVbpL5tzTDMVQGDzXmV"
STACK = Stack(
    {
        "sshAlias": "team-a-builder",
        "dockerHost": "ssh://builder@build.example:2222",
        "sshConfig": "Host team-a-builder\n  HostName build.example\n  Port 2222\n",
        "knownHosts": f"[build.example]:2222 {HOST_KEY}\n",
    },
    {},
)
IMAGE = "registry.example.com/team/app"

# The CI schemas that check-jsonschema contains, by name.
SCHEMAS = {
    "gitlab": "gitlab-ci",
    "gitlab-runner": "gitlab-ci",
    "github": "github-workflows",
    "circleci": "circle-ci",
    "buildkite": "buildkite",
    "bitbucket": "bitbucket-pipelines",
    "forgejo": "github-workflows",
    "gitea": "github-workflows",
    "woodpecker": "woodpecker-ci",
    "drone": "drone-ci",
}


def validation(schema: str, *files: Path) -> Result:
    """The output of check-jsonschema for these files."""
    command = ["--builtin-schema", f"vendor.{schema}", *map(str, files)]
    return CliRunner().invoke(check_jsonschema.main, command)


def damaged(tree: Any) -> Any:
    """The same files with an object where every CI expects a list or text."""
    steps = {"script", "run", "command", "commands", "steps"}
    if isinstance(tree, dict):
        return {k: {"a": 1} if k in steps else damaged(value) for k, value in tree.items()}
    return [damaged(value) for value in tree] if isinstance(tree, list) else tree


def written(folder: Path, kind: str, audience: str = "") -> dict[str, Path]:
    """The rendered files of one CI, by their path in the repository."""
    files = {path: folder / f"{kind}{audience}" / path for path in ci.KINDS[kind]}
    for path, text in ci.render(kind, STACK, IMAGE, audience).items():
        files[path].parent.mkdir(parents=True, exist_ok=True)
        files[path].write_text(text)
    return files


@pytest.mark.parametrize("schema", sorted({*SCHEMAS.values()}))
def test_each_file_fits_its_schema_and_a_damaged_one_does_not(schema: str, tmp_path: Path) -> None:
    kinds = [kind for kind, name in SCHEMAS.items() if name == schema]
    files = [
        file for kind in kinds for path, file in written(tmp_path, kind).items() if ".yml" in path
    ]
    result = validation(schema, *files)
    assert result.exit_code == 0, result.output
    files[0].write_text(yaml.safe_dump(damaged(yaml.safe_load(files[0].read_text()))))
    result = validation(schema, files[0])
    assert (result.exit_code, "Schema validation errors" in result.output) == (1, True)


@pytest.mark.parametrize("kind", ci.KEYLESS)
def test_a_file_without_a_key_fits_its_schema_and_asks_for_a_token(
    kind: str, tmp_path: Path
) -> None:
    files = written(tmp_path, kind, "builder.example.com")
    assert [*files] == [*ci.KINDS[kind]]
    (file,) = (file for path, file in files.items() if ".yml" in path)
    result = validation(SCHEMAS[kind], file)
    # The schema is GitHub's, which does not know this word of Forgejo's.
    if kind == "forgejo":
        assert "'enable-openid-connect' was unexpected" in result.output
        file.write_text(file.read_text().replace("enable-openid-connect: true\n", ""))
        result = validation(SCHEMAS[kind], file)
    # Nor does Bitbucket's know that a step can name the audience of its token.
    if kind == "bitbucket":
        assert "is not of type 'boolean'" in result.output
        step = bitbucket_step(file)
        assert step["oidc"] == {"audiences": ["builder.example.com"]}
        file.write_text(re.sub("oidc:\n.*\n.*", "oidc: true", file.read_text()))
        result = validation(SCHEMAS[kind], file)
    assert result.exit_code == 0, result.output
    assert "BUILDER_KEY" not in file.read_text()
    snippet = files["ci/builder.sh"].read_text()
    assert "builder_audience='builder.example.com'\n" in snippet
    assert not re.search(r"(?<!:)@\w+@", file.read_text() + snippet)


def bitbucket_step(file: Path) -> dict[str, Any]:
    pipelines = yaml.safe_load(file.read_text())["pipelines"]
    step: dict[str, Any] = pipelines["branches"]["main"][0]["step"]
    return step


def test_an_audience_that_is_bitbuckets_own_is_not_asked_for(tmp_path: Path) -> None:
    own = "ari:cloud:bitbucket::workspace/6b1a4f0e-9d3c-4a57-8f21-0c7d5e2b9a14"
    file = written(tmp_path, "bitbucket", own)["bitbucket-pipelines.yml"]
    assert bitbucket_step(file)["oidc"] is True
    assert validation(SCHEMAS["bitbucket"], file).exit_code == 0


IDENTITIES = [
    {"name": "main", "audience": "builder.example.com"},
    {"name": "release", "audience": "builder.example.com"},
]
OTHER = {"name": "forks", "audience": "forks.example.com"}


@pytest.mark.parametrize(
    ("kind", "identities", "options", "problem"),
    [
        ("github", [], [], "identities has 0 audiences; next: add an identity"),
        ("github", [*IDENTITIES, OTHER], [], "identities has 2 audiences; next: name one with"),
        ("github", IDENTITIES, ["--identity", "x"], "--identity x: this stack has no such"),
        ("jenkins", IDENTITIES, [], "--keyless: jenkins gives its jobs no tokens; allowed:"),
        ("github", IDENTITIES, [], ""),
        ("gitlab", [*IDENTITIES, OTHER], ["--identity", "release"], ""),
    ],
)
def test_the_audience_is_that_of_the_identities(
    kind: str,
    identities: list[dict[str, str]],
    options: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    ci.add_arguments(parser)
    given = parser.parse_args([kind, "--keyless", *options])
    stack = Stack(STACK.outputs, {"identities": identities})
    if problem:
        with pytest.raises(StackError, match=re.escape(problem)):
            ci.run(stack, given)
    else:
        assert ci.run(stack, given) == 0
        assert "builder_audience='builder.example.com'" in capsys.readouterr().out


def test_every_kind_but_jenkins_has_a_schema() -> None:
    assert {*ci.KINDS} - {*SCHEMAS} == {"jenkins"}


def test_the_jenkinsfile_is_groovy(tmp_path: Path) -> None:
    text = written(tmp_path, "jenkins")["Jenkinsfile"].read_text()
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_groovy.language()))
    assert not parser.parse(text.encode()).root_node.has_error
    assert parser.parse(text.replace("])", ")").encode()).root_node.has_error


def test_the_runner_leads_docker_to_the_builder_by_mounted_files(tmp_path: Path) -> None:
    files = written(tmp_path, "gitlab-runner")
    (runner,) = tomllib.loads(files["config.toml"].read_text())["runners"]
    assert "DOCKER_HOST=ssh://team-a-builder" in runner["environment"]
    mounts = {mount.split(":")[1] for mount in runner["docker"]["volumes"]}
    assert mounts == {"/root/.ssh/config", "/root/.ssh/builder"}
    assert "IdentityFile ~/.ssh/builder" in files["ssh_config"].read_text()


@pytest.mark.parametrize("kind", ci.KINDS)
def test_every_value_is_filled_in(kind: str, tmp_path: Path) -> None:
    for path, file in written(tmp_path, kind).items():
        assert not re.search(r"(?<!:)@\w+@", file.read_text()), path


@pytest.mark.parametrize("kind", sorted(set(ci.KINDS) - {"gitlab-runner"}))
def test_every_kind_sources_the_same_snippet_and_runs_the_same_lines(
    kind: str, tmp_path: Path
) -> None:
    files = written(tmp_path, kind)
    snippet = files.pop("ci/builder.sh").read_text()
    assert f"[build.example]:2222 {HOST_KEY}" in snippet
    (file,) = files.values()
    lines = [line.strip().replace("$$", "$") for line in file.read_text().splitlines()]
    job = (Path(ci.__file__).parent / "job.sh").read_text().splitlines()
    start = lines.index(job[0])
    assert lines[start : start + len(job)] == job


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(kind="github", image=IMAGE, keyless=False, **given)


def test_files_are_written_once_and_never_over_others(tmp_path: Path) -> None:
    assert ci.run(STACK, options(out=tmp_path)) == 0
    assert ci.run(STACK, options(out=tmp_path)) == 0
    workflow = tmp_path / ".github" / "workflows" / "image.yml"
    workflow.write_text("mine\n")
    (tmp_path / "ci" / "builder.sh").unlink()
    with pytest.raises(StackError, match=r"image\.yml exists and differs"):
        ci.run(STACK, options(out=tmp_path))
    assert workflow.read_text() == "mine\n"
    assert not (tmp_path / "ci" / "builder.sh").exists()


@pytest.mark.parametrize(
    "image", ["app", "registry.example.com/team/app:1", "Registry/app", "a b/c"]
)
def test_an_image_name_needs_a_registry_and_no_tag(image: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    ci.add_arguments(parser)
    with pytest.raises(argparse.ArgumentError, match="is not REGISTRY/NAME"):
        parser.parse_args(["github", "--image", image])


def test_the_sockets_are_forwarded_from_where_the_gateway_has_them() -> None:
    from components.layout import DAEMON_SOCKET_NAME, GATEWAY_SOCKETS, GUARD_SOCKET_NAME

    snippet = ci.render("gitlab", STACK, IMAGE)["ci/builder.sh"]
    connection = (Path(kit.__file__).parent / "connection.sh").read_text()
    for name in (DAEMON_SOCKET_NAME, GUARD_SOCKET_NAME):
        assert f":{GATEWAY_SOCKETS}/{name}" in snippet
    assert f":{GATEWAY_SOCKETS}/$2" in connection
    assert f"in {DAEMON_SOCKET_NAME} {GUARD_SOCKET_NAME};" in connection
