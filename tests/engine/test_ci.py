"""The script part of the files for each CI, run as that CI's agent would, with a real builder.

A job runs in a container with docker and ssh, an empty home and only the network of this machine;
its variables are those that the rendered file takes from the CI's secret store.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.ci import KEYLESS, KINDS, render
from client.stack import Stack
from tests.engine.conftest import (
    BASE_IMAGE,
    DAEMON_IMAGE,
    REGISTRY_IMAGE,
    Builder,
    NewBuilder,
    bridge_address,
    logs,
    make_key,
    passed,
    run,
    take_from_image,
)
from tests.engine.processes import command_lines
from tests.issuer import CLAIMS, RULES, Issuer, issuing

AUDIENCE = "builder.example.com"
PASSWORD = "pushes-only-in-tests"
HTPASSWD = "robot:$2b$05$pAVG4LPbn/j/ZwTpghRqD.EK/5/aMTzZAvzn7nNnz/DKtm1L/tDVC\n"
IMAGE = "localhost:5000/team/app"


@dataclass
class Job:
    """A rendered file as the CI's agent runs it."""

    command: list[str]
    env: dict[str, str]
    volumes: list[str] = field(default_factory=list)


@dataclass
class Store:
    """The secret store and the predefined variables of a CI, for one commit."""

    key: Path
    commit: str = field(default_factory=lambda: secrets.token_hex(20))
    keyless: bool = False
    """Whether jobs log in with a token, so that the store has no key."""

    def text(self) -> str:
        """The key in a store that removes the last line break."""
        return self.key.read_text().strip()

    def base64(self) -> str:
        return base64.b64encode(self.key.read_bytes()).decode()

    def file(self) -> str:
        """The key as the path of a file that everybody can read."""
        return "/secrets/key"

    def values(self, key: str) -> dict[str, str]:
        own = {} if self.keyless else {"BUILDER_KEY": key}
        return {**own, "REGISTRY_USER": "robot", "REGISTRY_PASSWORD": PASSWORD}


def filled(env: dict[str, Any], values: dict[str, str]) -> dict[str, str]:
    """The environment of a file with the values that the CI fills in."""
    pattern = r"\$\{\{ (?:secrets|github)\.(\w+) \}\}|\$\{(\w+)\}|\$(\w+)"
    return {
        name: re.sub(pattern, lambda m: values[m[1] or m[2] or m[3]], value)
        for name, value in env.items()
    }


def gitlab(files: dict[str, str], store: Store) -> Job:
    job = yaml.safe_load(files[".gitlab-ci.yml"])["build-image"]
    given = {
        "CI_REGISTRY": "localhost:5000",
        "CI_REGISTRY_USER": "robot",
        "CI_REGISTRY_PASSWORD": PASSWORD,
        "CI_REGISTRY_IMAGE": IMAGE,
        "CI_COMMIT_SHORT_SHA": store.commit,
        **({} if store.keyless else {"BUILDER_KEY": store.file()}),
    }
    script = "\n".join(job["script"])
    # GitLab's shell executor pipes into eval, so the script runs in a subshell.
    wrapped = f"set -eo pipefail; set +o noclobber; : | eval {shlex.quote(script)}; exit 0"
    return Job(["bash", "-c", wrapped], {**given, **filled(job.get("variables", {}), given)})


def gitlab_runner(files: dict[str, str], store: Store) -> Job:
    job = gitlab(files, store)
    del job.env["BUILDER_KEY"]
    config = tomllib.loads(files["config.toml"])["runners"][0]
    job.env |= dict(variable.split("=", 1) for variable in config["environment"])
    job.env["HOME"] = "/root"
    etc = store.key.parent / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "ssh_config").write_text(files["ssh_config"])
    (etc / "key").write_bytes(store.key.read_bytes())
    (etc / "key").chmod(0o600)
    job.volumes = [
        volume.replace("/etc/gitlab-runner/builder", str(etc))
        for volume in config["docker"]["volumes"]
    ]
    return job


def github(files: dict[str, str], store: Store) -> Job:
    (workflow,) = (yaml.safe_load(text) for path, text in files.items() if path.endswith(".yml"))
    step = workflow["jobs"]["image"]["steps"][-1]
    values = {**store.values(store.text()), "sha": store.commit}
    # Without `shell` the runner uses bash -e, or sh -e in an image without bash.
    shell = "sh" if "container" in workflow["jobs"]["image"] else "bash"
    return Job([shell, "-e", "-c", step["run"]], filled(step["env"], values))


def circleci(files: dict[str, str], store: Store) -> Job:
    job = yaml.safe_load(files[".circleci/config.yml"])["jobs"]["image"]
    env = {**store.values(store.base64()), "CIRCLE_SHA1": store.commit, **job["environment"]}
    return Job(["bash", "-eo", "pipefail", "-c", job["steps"][-1]["run"]["command"]], env)


def buildkite(files: dict[str, str], store: Store) -> Job:
    (step,) = yaml.safe_load(files[".buildkite/pipeline.yml"])["steps"]
    assert {*store.values("")} == {*step["secrets"]}
    # The pipeline upload replaces single dollars and removes one of two.
    env = filled(step["env"], {"BUILDKITE_COMMIT": store.commit})
    assert not re.search(r"(?<!\$)\$(?!\$)", step["command"].replace("$$", ""))
    command = step["command"].replace("$$", "$")
    return Job(["bash", "-e", "-c", command], {**env, **store.values(store.text())})


def jenkins(files: dict[str, str], store: Store) -> Job:
    text = files["Jenkinsfile"]
    environment = re.search(r"environment \{\s+(\w+) = '([^']*)'\s+\}", text)
    script = re.search(r"sh '''\n(.*?)'''", text, re.DOTALL)
    assert environment is not None
    assert script is not None
    env = {environment[1]: environment[2], "GIT_COMMIT": store.commit}
    # Groovy treats a backslash as an escape.
    assert "\\" not in script[1]
    return Job(["sh", "-xe", "-c", script[1]], {**env, **store.values(store.file())})


def bitbucket(files: dict[str, str], store: Store) -> Job:
    pipelines = yaml.safe_load(files["bitbucket-pipelines.yml"])["pipelines"]
    script = "\n".join(pipelines["branches"]["main"][0]["step"]["script"])
    env = {**store.values(store.base64()), "BITBUCKET_COMMIT": store.commit}
    return Job(["sh", "-e", "-c", script], env)


def _piped(step: dict[str, Any], store: Store, commit: str) -> Job:
    """Woodpecker and Drone pass the script to the shell on its standard input."""
    given = store.values(store.text())
    env = {
        name: given[value["from_secret"].upper()] if isinstance(value, dict) else value
        for name, value in step["environment"].items()
    }
    # Both replace names in braces before the job runs.
    assert "${" not in "".join(step["commands"])
    script = "".join(f"echo + {shlex.quote(command)}\n{command}\n" for command in step["commands"])
    env = filled({"IMAGE": env.pop("IMAGE")}, {commit: store.commit}) | env
    env["CI_SCRIPT"] = base64.b64encode(script.encode()).decode()
    return Job(["sh", "-c", "echo $CI_SCRIPT | base64 -d | /bin/sh -e"], env)


def woodpecker(files: dict[str, str], store: Store) -> Job:
    (step,) = yaml.safe_load(files[".woodpecker/image.yml"])["steps"]
    return _piped(step, store, "CI_COMMIT_SHA")


def drone(files: dict[str, str], store: Store) -> Job:
    (step,) = yaml.safe_load(files[".drone.yml"])["steps"]
    return _piped(step, store, "DRONE_COMMIT_SHA")


AGENTS: dict[str, Callable[[dict[str, str], Store], Job]] = {
    "gitlab": gitlab,
    "gitlab-runner": gitlab_runner,
    "github": github,
    "circleci": circleci,
    "buildkite": buildkite,
    "jenkins": jenkins,
    "bitbucket": bitbucket,
    "forgejo": github,
    "gitea": github,
    "woodpecker": woodpecker,
    "drone": drone,
}


@dataclass
class Ci:
    """A repository with a Dockerfile, and containers in which jobs run with it."""

    folder: Path
    builder: Builder
    stack: Stack
    shells: str
    """Shells besides sh in the image of the jobs; agents use them instead of sh."""

    def shell(self, name: str) -> str:
        return name if f"/{name}\n" in self.shells else "sh"

    def checkout(self, files: dict[str, str]) -> Path:
        """A fresh checkout of the repository with the rendered files."""
        repository = self.folder / secrets.token_hex(4)
        files = {"Dockerfile": f"FROM {BASE_IMAGE}\nRUN echo hello >/built\n", **files}
        for path, text in files.items():
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_text(text)
        return repository

    def run(self, job: Job, files: dict[str, str], key: Path) -> tuple[int, str]:
        """Run the job; return its exit code and its log."""
        shared = self.folder / secrets.token_hex(4)
        shared.mkdir()
        (shared / "key").write_bytes(key.read_bytes())
        (shared / "key").chmod(0o666)
        # Pass only the names, so that no value is in the list of processes (agents use the API).
        # DOCKER_HOST is an exception, because it would redirect the docker that starts the job.
        env = {"HOME": "/home/job", **job.env}
        to = [f"--env=DOCKER_HOST={env.pop('DOCKER_HOST')}"] if "DOCKER_HOST" in env else []
        volumes = [f"{self.checkout(files)}:/repo:ro", f"{shared}:/secrets:ro", *job.volumes]
        result = run(
            "docker",
            "run",
            "--rm",
            "--network",
            "host",
            "--user",
            "0:0",
            "--entrypoint",
            "",
            "--workdir",
            "/repo",
            "--tmpfs",
            "/home/job",
            *to,
            *(f"--env={name}" for name in env),
            *(f"--volume={volume}" for volume in volumes),
            DAEMON_IMAGE,
            self.shell(job.command[0]),
            *job.command[1:],
            env=env,
        )
        return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """The issuer of tokens for the jobs of all CIs."""
    with issuing(tmp_path_factory.mktemp("issuer"), bridge_address()) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def ci(
    new_builder: NewBuilder, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> Iterator[Ci]:
    """A builder with a key of role build, identities, and a registry that requires a login."""
    builder = new_builder()
    builder.add_key("ci", role="build")
    builder.settings["identities"] = [
        {
            "name": f"{kind}-jobs",
            "issuer": issuer.url,
            "audience": AUDIENCE,
            "claims": claims,
            "issuerCa": issuer.ca,
        }
        for kind, claims in RULES.items()
    ]
    builder.up()
    builder.load_base()
    builder.provide(REGISTRY_IMAGE)
    folder = tmp_path_factory.mktemp("ci")
    (folder / "htpasswd").write_text(HTPASSWD)
    passed(
        builder.docker(
            "create",
            "--name",
            "registry",
            "--publish",
            "127.0.0.1:5000:5000",
            "--env",
            "REGISTRY_AUTH=htpasswd",
            "--env",
            "REGISTRY_AUTH_HTPASSWD_REALM=tests",
            "--env",
            "REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd",
            REGISTRY_IMAGE,
        )
    )
    passed(builder.docker("cp", str(folder / "htpasswd"), "registry:/htpasswd"))
    passed(builder.docker("start", "registry"))
    names = ("sshAlias", "sshConfig", "knownHosts", "dockerHost")
    look = ("docker", "run", "--rm", "--entrypoint", "", DAEMON_IMAGE, "sh", "-c")
    shells = run(*look, "command -v bash; command -v dash").stdout
    yield Ci(folder, builder, Stack({name: builder.output(name) for name in names}, {}), shells)
    builder.docker("rm", "--force", "--volumes", "registry")


def test_every_kind_has_an_agent_in_this_module() -> None:
    assert [*AGENTS] == [*KINDS]


def test_actionlint_accepts_the_workflows(ci: Ci) -> None:
    config = ci.folder / "actionlint.yaml"
    config.write_text("self-hosted-runner: {labels: [docker]}\n")
    for kind in ("github", "forgejo", "gitea"):
        files = render(kind, ci.stack, IMAGE)
        (workflow,) = (text for path, text in files.items() if path.endswith(".yml"))
        command = ("actionlint", "-config-file", str(config), "-")
        passed(run(*command, input=workflow))
        assert run(*command, input=workflow.replace("secrets.", "secret.")).returncode == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_rendered_job_builds_and_pushes_and_shows_no_secret(ci: Ci, kind: str) -> None:
    key = ci.builder.folder / "ci"
    store = Store(key)
    files = render(kind, ci.stack, IMAGE)
    job = AGENTS[kind](files, store)
    for _ in range(5):  # on a busy machine the look at the processes may come too late
        with command_lines() as seen:
            code, log = ci.run(job, files, key)
        assert code == 0, log
        if any("docker login" in line for line in seen):
            break
    assert "forwarded socket" in log or kind == "gitlab-runner"
    tags = "/var/lib/registry/docker/registry/v2/repositories/team/app/_manifests/tags"
    passed(ci.builder.docker("exec", "registry", "ls", f"{tags}/{store.commit}"))
    assert any("docker login" in line for line in seen)
    for secret in (key.read_text().splitlines()[2], store.base64(), PASSWORD):
        assert secret not in log
        assert not any(secret in line for line in seen)


# What jobs get their tokens with: curl of this machine, and stand-ins for the CIs' own programs.
# These give curl its secret on standard input too.
CURL = """#!/bin/sh
exec /opt/tools/loader --library-path /opt/tools /opt/tools/curl.program "$@"
"""
ASK = """
printf 'header = "Authorization: bearer %s"\\n' "$AGENT_SECRET" |
curl --silent --fail --config - --get --data-urlencode "audience=$audience" "$AGENT_URL" |
sed 's/.*"value": "\\([^"]*\\)".*/\\1/'
"""
BUILDKITE_AGENT = f"""#!/bin/sh
[ "$1 $2 $3" = 'oidc request-token --audience' ] || exit 2
[ "$5 $6 $7 $8" = '--claim organization_id --claim pipeline_id' ] || exit 2
audience=$4
{ASK}"""
CIRCLECI = f"""#!/bin/sh
[ "$1 $2 $3 $4" = 'run oidc get --claims' ] || exit 2
audience=$(printf '%s' "$5" | sed -n 's/^{{"aud": "\\([^"]*\\)"}}$/\\1/p')
{ASK}"""


@pytest.fixture(scope="module")
def tools(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for /opt/tools with these programs, and the certificate of the issuer's CA."""
    folder = tmp_path_factory.mktemp("tools")
    curl = passed(run("sh", "-c", "command -v curl")).strip()
    libraries = re.findall(r"(/\S+) \(0x", passed(run("ldd", curl)))
    for library in libraries:
        name = "loader" if "/ld-linux" in library else Path(library).name
        (folder / name).write_bytes(Path(library).read_bytes())
    (folder / "curl.program").write_bytes(Path(curl).read_bytes())
    (folder / "ca.pem").write_text(issuer.ca)
    programs = {"curl": CURL, "buildkite-agent": BUILDKITE_AGENT, "circleci": CIRCLECI}
    for name, text in programs.items():
        (folder / name).write_text(text)
    for file in folder.iterdir():
        file.chmod(0o755)
    return folder


def with_token(job: Job, kind: str, issuer: Issuer, tools: Path) -> Job:
    """The job with the variables and programs by which its CI gives it a token."""
    issuer.claims = CLAIMS[kind]
    url = f"{issuer.url}/token?api-version=2"
    asked = {"AGENT_URL": url, "AGENT_SECRET": issuer.bearer}
    given: dict[str, dict[str, str]] = {
        "gitlab": {"BUILDER_TOKEN": issuer.token(AUDIENCE, **CLAIMS[kind])},
        "bitbucket": {"BITBUCKET_STEP_OIDC_TOKEN": issuer.token(AUDIENCE, **CLAIMS[kind])},
        "buildkite": {"BUILDKITE_JOB_ID": "1", **asked},
        "circleci": {"CIRCLECI": "true", **asked},
    }
    of_actions = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": url,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": issuer.bearer,
    }
    places = "/opt/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    more = {"PATH": places, "CURL_CA_BUNDLE": "/opt/tools/ca.pem"}
    env = {**job.env, **given.get(kind, of_actions), **more}
    return Job(job.command, env, [*job.volumes, f"{tools}:/opt/tools:ro"])


@pytest.mark.parametrize("kind", KEYLESS)
def test_the_rendered_job_without_a_key_builds_and_shows_no_token(
    ci: Ci, issuer: Issuer, tools: Path, kind: str
) -> None:
    key = ci.builder.folder / "ci"
    files = render(kind, ci.stack, IMAGE, AUDIENCE)
    issuer.issued.clear()
    for _ in range(5):  # on a busy machine the look at the processes may come too late
        # A token that does not name the job's key is good for one job.
        store = Store(key, keyless=True)
        job = with_token(AGENTS[kind](files, store), kind, issuer, tools)
        assert "BUILDER_KEY" not in job.env
        with command_lines() as seen:
            code, log = ci.run(job, files, key)
        assert code == 0, log
        if any("docker login" in line for line in seen):
            break
    assert "forwarded socket" in log
    tags = "/var/lib/registry/docker/registry/v2/repositories/team/app/_manifests/tags"
    passed(ci.builder.docker("exec", "registry", "ls", f"{tags}/{store.commit}"))
    names = {"github": "(github|forgejo)-jobs", "forgejo": "(github|forgejo)-jobs"}
    login = rf" login name={names.get(kind, f'{kind}-jobs')} role=build repository=\S+ ref=\S+ run="
    assert any(re.search(login, line) for line in ci.builder.audit())
    assert any("docker login" in line for line in seen)
    everything = [
        log,
        logs(ci.builder.container("gateway")),
        logs(ci.builder.container("verifier")),
        *seen,
    ]
    assert issuer.issued
    for secret in (issuer.bearer, PASSWORD, *(token.split(".")[1] for token in issuer.issued)):
        assert not any(secret in text for text in everything)


def test_a_later_job_of_another_kind_builds_warm(ci: Ci) -> None:
    key = ci.builder.folder / "ci"
    for kind in ("gitlab", "github"):
        files = render(kind, ci.stack, IMAGE)
        code, log = ci.run(AGENTS[kind](files, Store(key)), files, key)
        assert code == 0
    assert "CACHED" in log


SHELLS = ("dash", "bash", "busybox")

# Processes of a job whose shell has ended remain for five seconds at most.
LEFT = """
left() { ls -d /tmp/builder.* 2>/dev/null; busybox ps -o args | grep '[s]sh -F'; }
for _ in $(busybox seq 50); do [ -n "$(left)" ] || break; sleep 0.1; done
echo "left: $(left)"
"""


@dataclass
class Snippet:
    """Runs scripts that source ci/builder.sh, to test that file itself."""

    ci: Ci
    busybox: Path

    def run(
        self, script: str, shell: str = "dash", key: str | None = None, stack: Stack | None = None
    ) -> tuple[int, str]:
        """Run the script in that shell; return exit code, output and what it left behind."""
        ada = self.ci.builder.folder / "ada"
        command = "busybox sh" if shell == "busybox" else self.ci.shell(shell)
        job = Job(
            ["sh", "-c", f"{command} -eux -c {shlex.quote(script)}; code=$?\n{LEFT}exit $code"],
            {"BUILDER_KEY": Store(ada).text() if key is None else key},
            [f"{self.busybox}:/usr/local/bin/busybox:ro"],
        )
        return self.ci.run(job, render("gitlab", stack or self.ci.stack, IMAGE), ada)


@pytest.fixture(scope="module")
def snippet(ci: Ci) -> Snippet:
    return Snippet(ci, take_from_image(BASE_IMAGE, ci.folder / "busybox", "/bin/busybox"))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_traced_job_of_a_dind_image_reaches_the_builder_and_leaves_nothing(
    snippet: Snippet, shell: str
) -> None:
    code, log = snippet.run(
        """
        export DOCKER_HOST=tcp://docker:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/certs/client
        export DOCKER_CONTEXT=elsewhere BUILDX_BUILDER=cold
        mkdir "$HOME/.docker"
        echo '{"auths": {"registry.before": {"auth": "YTpi"}}}' >"$HOME/.docker/config.json"
        . ci/builder.sh
        grep -q registry.before "$DOCKER_CONFIG/config.json"
        printf %s pushes-only-in-tests |
            docker login --username robot --password-stdin localhost:5000
        docker build --quiet --tag warm .
        ! grep -q localhost:5000 "$HOME/.docker/config.json"
        [ -z "${BUILDER_KEY:-}" ]
        busybox ps -o args | grep -q '[s]sh -F /tmp/builder'
        """,
        shell,
    )
    assert code == 0, log
    assert "forwarded socket" in log
    assert "left: \n" in log
    assert "PRIVATE KEY" not in log
    assert (snippet.ci.builder.folder / "ada").read_text().splitlines()[2] not in log


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_fails_keeps_its_exit_code_and_leaves_nothing(
    snippet: Snippet, shell: str
) -> None:
    code, log = snippet.run(". ci/builder.sh; docker run --rm nosuch:image; echo on", shell)
    assert code == 125, log
    assert "left: \n" in log


@pytest.mark.parametrize("shell", SHELLS)
def test_a_killed_job_leaves_nothing(snippet: Snippet, shell: str) -> None:
    code, log = snippet.run(". ci/builder.sh; kill -9 $$", shell)
    assert code == 137, log
    assert "forwarded socket" in log
    assert "left: \n" in log


@pytest.mark.parametrize("shell", SHELLS)
def test_a_lost_connection_is_restored(snippet: Snippet, shell: str) -> None:
    code, log = snippet.run(
        """
        . ci/builder.sh
        kill $(busybox pidof ssh)
        ! docker version
        for _ in $(busybox seq 50); do docker version && exit; sleep 0.1; done
        exit 3
        """,
        shell,
    )
    assert code == 0, log
    assert "left: \n" in log


def test_a_job_that_cannot_log_in_says_why(snippet: Snippet) -> None:
    code, log = snippet.run(". ci/builder.sh", key="")
    assert code == 1
    assert "BUILDER_KEY is not set; next: put the private key into the secret store" in log
    code, log = snippet.run(". ci/builder.sh", key="c2VjcmV0Cg==")
    assert code == 1
    assert "BUILDER_KEY is no private key without passphrase" in log
    make_key(snippet.ci.folder / "stranger")
    stranger = (snippet.ci.folder / "stranger").read_text()
    code, log = snippet.run(". ci/builder.sh", key=stranger)
    assert code == 1
    assert "Permission denied (publickey)" in log
    assert "left: \n" in log
    other = make_key(snippet.ci.folder / "host")
    outputs = dict(snippet.ci.stack.outputs)
    name = outputs["knownHosts"].split()[0]
    code, log = snippet.run(
        ". ci/builder.sh", stack=Stack({**outputs, "knownHosts": f"{name} {other}\n"}, {})
    )
    assert code == 1
    assert "Host key verification failed" in log
    assert "left: \n" in log


def test_a_job_waits_over_plain_ssh_for_a_stopped_daemon(snippet: Snippet) -> None:
    daemon = snippet.ci.builder.container("daemon")
    passed(run("docker", "stop", daemon))
    back = threading.Timer(3, lambda: run("docker", "start", daemon))
    back.start()
    code, log = snippet.run(". ci/builder.sh; docker build --quiet --tag waited .")
    back.join()
    assert code == 0, log
    assert "plain ssh" in log
    assert "left: \n" in log


def test_a_job_without_a_key_sends_tokens_while_it_runs(
    snippet: Snippet, issuer: Issuer, tools: Path
) -> None:
    ci, key = snippet.ci, snippet.ci.builder.folder / "ci"
    files = render("gitlab", ci.stack, IMAGE, AUDIENCE)
    script = files["ci/builder.sh"]
    assert "-lt 300 ]" in script
    files["ci/builder.sh"] = script.replace("-lt 300 ]", "-lt 2 ]")
    job = Job(
        [
            "sh",
            "-euc",
            """
            . ci/builder.sh
            [ -z "${BUILDER_TOKEN:-}" ]
            printenv | grep -c eyJ && exit 4
            sleep 6
            docker version
            kill $(busybox pidof ssh)
            for _ in $(busybox seq 100); do docker version && exit; sleep 0.1; done
            exit 3
            """,
        ],
        {},
        [f"{snippet.busybox}:/usr/local/bin/busybox:ro"],
    )
    before = logs(ci.builder.container("verifier")).count("accepted name=gitlab-jobs")
    code, log = ci.run(with_token(job, "gitlab", issuer, tools), files, key)
    assert code == 0, log
    after = logs(ci.builder.container("verifier")).count("accepted name=gitlab-jobs")
    assert after - before >= 3


def test_a_job_without_a_key_that_cannot_log_in_says_why(
    snippet: Snippet, issuer: Issuer, tools: Path
) -> None:
    ci, key = snippet.ci, snippet.ci.builder.folder / "ci"
    files = render("gitlab", ci.stack, IMAGE, AUDIENCE)
    for token, reason in (
        ("", "this is not a token"),
        (
            issuer.token(AUDIENCE, **{**CLAIMS["gitlab"], "project_path": "evil/app"}),
            "no rule fits",
        ),
    ):
        job = Job(["sh", "-euc", ". ci/builder.sh"], {"BUILDER_TOKEN": token})
        code, log = ci.run(job, files, key)
        assert code == 1
        assert "its token does not let it in" in log
        assert reason in log
        assert not token or token.split(".")[1] not in log
