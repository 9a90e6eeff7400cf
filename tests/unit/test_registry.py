"""The stack's own registry: its resources, and the configuration that daemons get."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest

from client import fleet
from client.stack import Stack
from components.registry import Upstream, configuration
from components.registry.certificates import blocks
from tests.unit.conftest import CERTIFICATES, ROOT, Run
from tests.unit.test_fleet import HOSTS
from tests.unit.test_program import SECRET_SIGNATURE, unwrapped, uploads
from tests.unit.test_settings import problems

Program = Callable[..., Run]

CHILDREN = {
    "registry-host": "pulumi:providers:docker",
    "registry-certificates": "command:local:Command",
    "registry-image": "docker:index/remoteImage:RemoteImage",
    "registry-entrance": "docker:index/network:Network",
    "registry-network": "docker:index/network:Network",
    "registry-store-data": "docker:index/volume:Volume",
    "registry-mirror-data": "docker:index/volume:Volume",
    "registry-store": "docker:index/container:Container",
    "registry-mirror": "docker:index/container:Container",
    "registry-readiness": "command:local:Command",
}
CERTS_D = "/etc/docker-build-machine/docker/certs.d"


def registry(run_program: Program, **settings: Any) -> Run:
    return run_program(host=None, hosts=HOSTS, registry={"host": "arm"}, **settings)


def test_it_adds_exactly_these_resources_on_its_host(run_program: Program) -> None:
    run = registry(run_program)
    added = {n: r for n, r in run.resources.items() if n.startswith("registry-")}
    assert {name: resource.type for name, resource in added.items()} == CHILDREN
    for resource in added.values():
        assert resource.request.parent.endswith("index:Registry::registry")
        assert resource.type[:7] != "docker:" or "::registry-host::" in resource.request.provider
        assert not resource.request.protect
    assert run["registry-host"].inputs["host"] == "ssh://ops@arm.example"
    assert "KnownHostsCommand=" in str(run["registry-host"].inputs["sshOpts"])
    assert run["registry"].inputs["host"] == "ssh://ops@arm.example"
    assert run["registry-store"].inputs["name"] == "dev-registry-store"


def test_without_a_registry_nothing_is_added(run_program: Program) -> None:
    for run in (run_program(), run_program(registry={})):
        assert not [name for name in run.resources if name.startswith("registry")]
        assert not {"registry", "registryClient"} & set(run.exports)
        daemon = run["builder-daemon"]
        assert "registry-mirrors" not in daemon_json(run)
        assert not [path for path in uploads(daemon) if "certs.d" in path]
        assert not [env for env in daemon.inputs["envs"] if env.startswith("XDG_CONFIG_HOME")]


def daemon_json(run: Run, builder: str = "builder") -> Any:
    files = uploads(run[f"{builder}-daemon"])
    return json.loads(files["/etc/docker-build-machine/daemon.json"]["content"])


def test_every_daemon_gets_the_mirror_and_a_certificate_and_depends_on_no_host_of_it(
    run_program: Program,
) -> None:
    run = registry(run_program)
    assert run.exports["registry"] == "arm.example:5000"
    for name in ("builder-eu1", "builder-arm"):
        daemon = run[f"{name}-daemon"]
        assert daemon_json(run, name)["registry-mirrors"] == ["https://arm.example:5001"]
        assert "XDG_CONFIG_HOME=/etc/docker-build-machine" in daemon.inputs["envs"]
        for port in (5000, 5001):
            folder = f"{CERTS_D}/arm.example:{port}"
            files = {
                path: file for path, file in uploads(daemon).items() if path.startswith(folder)
            }
            assert set(files) == {
                f"{folder}/{file}" for file in ("ca.crt", "client.cert", "client.key")
            }
        # What dockerd 28 and newer show the mirror comes from here.
        hub = uploads(daemon)[f"{CERTS_D}/docker.io/hosts.toml"]["content"]
        assert '[host."https://arm.example:5001"]' in hub
        assert f'ca = "{CERTS_D}/arm.example:5001/ca.crt"' in hub
        assert SECRET_SIGNATURE in daemon.inputs["uploads"]
        hosted = [urn for urn in daemon.request.dependencies if "registry-" in urn]
        assert [urn.rsplit("::", 1)[-1] for urn in hosted] == ["registry-certificates"]


def test_store_and_mirror_require_a_certificate_and_have_few_capabilities(
    run_program: Program,
) -> None:
    run = registry(run_program)
    for role, port in (("store", 5000), ("mirror", 5001)):
        inputs = run[f"registry-{role}"].inputs
        assert inputs["capabilities"] == {"adds": [], "drops": ["ALL"]}
        assert inputs["securityOpts"] == ["no-new-privileges:true"]
        assert inputs["memory"] == inputs["memorySwap"] == 512
        assert inputs["ports"] == [{"internal": 5000, "external": port, "ip": "0.0.0.0"}]
        files = uploads(run[f"registry-{role}"])
        folder = "/etc/docker-build-machine/registry"
        config = json.loads(files[f"{folder}/config.json"]["content"])
        assert f"REGISTRY_HTTP_TLS_CLIENTCAS=[{folder}/ca.crt]" in inputs["envs"]
        assert config["http"]["debug"]["addr"].startswith("127.0.0.1:")
        assert files[f"{folder}/server.key"]["permissions"] == "0600"
        assert SECRET_SIGNATURE in inputs["uploads"]
        # The client's key is not where a client could make it speak for all.
        assert "of client" not in json.dumps(unwrapped(inputs["uploads"]))
    assert "STORE_AGE=2592000" in run["registry-store"].inputs["envs"]
    assert "STORE_SIZE=20000000000" in run["registry-store"].inputs["envs"]


def test_only_the_mirror_has_an_upstream_and_deletes() -> None:
    store = json.loads(configuration())
    mirror = json.loads(configuration(Upstream("https://x"), 60))
    assert "proxy" not in store
    assert "delete" not in store["storage"]
    assert mirror["proxy"] == {"remoteurl": "https://x", "ttl": "60s"}
    assert "cache" not in {**store["storage"], **mirror["storage"]}


LOGIN = {"user": "acme", "token": "dckr_pat_1"}
GHCR = {"registry": "ghcr.io", "port": 5003, "user": "bot", "token": "ghp_2", "check": "acme/base"}
QUAY = {"registry": "quay.example:8443", "port": 5004, "upstream": "http://10.0.0.9:5000"}


def encrypted(monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
    """The engine says of these settings that something in them is a secret."""
    keys = [f"docker-build-machine:{name}" for name in settings]
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(keys))


def file_in(run: Run, container: str, name: str) -> Any:
    files = uploads(run[container])
    return json.loads(files[f"/etc/docker-build-machine/registry/{name}"]["content"])


def test_mirrors_read_their_login_from_secret_files(
    run_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted(monkeypatch, "registry")
    run = run_program(
        host=None, hosts=HOSTS, registry={"host": "arm", **LOGIN, "mirrors": [GHCR, QUAY]}
    )
    logins = {
        "mirror": ("https://registry-1.docker.io", "acme", "dckr_pat_1"),
        "mirror-ghcr-io": ("https://ghcr.io", "bot", "ghp_2"),
        "mirror-quay-example-8443": ("http://10.0.0.9:5000", None, None),
    }
    for role, (url, user, token) in logins.items():
        container = f"registry-{role}"
        for name in ("config.json", "upstream.json"):
            proxy = file_in(run, container, name)["proxy"]
            assert (proxy["remoteurl"], proxy.get("username"), proxy.get("password")) == (
                url,
                user,
                token,
            )
            path = f"/etc/docker-build-machine/registry/{name}"
            assert uploads(run[container])[path]["permissions"] == "0600"
        assert SECRET_SIGNATURE in run[container].inputs["uploads"]
        # A private store of the check hides nothing, and only the container itself reaches it.
        check = file_in(run, container, "upstream.json")
        assert check["storage"] == {"inmemory": {}}
        assert check["http"] == {"addr": "127.0.0.1:5002"}
    assert run["registry-mirror-ghcr-io"].inputs["ports"][0]["external"] == 5003
    # Everything else that a preview, the state or the host would show.
    shown = {
        name: json.dumps({k: v for k, v in resource.inputs.items() if not is_hidden(v)})
        for name, resource in run.resources.items()
    }
    assert not [n for n, text in shown.items() if "dckr_pat_1" in text or "ghp_2" in text]
    assert is_hidden(run["registry"].inputs["token"])
    assert is_hidden(run["registry"].inputs["mirrors"])


def is_hidden(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(is_hidden, value))
    return isinstance(value, dict) and (
        SECRET_SIGNATURE in value or any(map(is_hidden, value.values()))
    )


def test_daemons_use_the_mirrors_of_other_registries(
    run_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted(monkeypatch, "registry")
    run = run_program(
        host=None,
        hosts=HOSTS,
        privateNetworks="block",
        registry={"host": "arm", "mirrors": [GHCR, QUAY]},
    )
    mirrored = {"ghcr.io": "arm.example:5003", "quay.example:8443": "arm.example:5004"}
    daemon = run["builder-eu1-daemon"]
    files = uploads(daemon)
    for source, server in mirrored.items():
        hosts = tomllib.loads(files[f"{CERTS_D}/{source}/hosts.toml"]["content"])
        assert hosts["server"] == f"https://{source}"
        (place, about) = hosts["host"].popitem()
        assert place == f"https://{server}"
        assert about["capabilities"] == ["pull", "resolve"]
        for path in (about["ca"], *about["client"][0]):
            assert path in files
    servers = " ".join(["arm.example:5000", "arm.example:5001", *mirrored.values()])
    assert f"EGRESS_SERVERS={servers}" in daemon.inputs["envs"]
    assert run.exports["registryClient"]["mirrored"] == mirrored
    # A change of them drains each daemon.
    without = registry(run_program)["builder-eu1-drain"].inputs["triggers"]
    assert without[-1] != run["builder-eu1-drain"].inputs["triggers"][-1]


def test_a_token_in_clear_is_refused_and_not_shown(run_program: Program) -> None:
    for settings in (LOGIN, {"mirrors": [GHCR]}):
        with pytest.raises(pulumi.RunError, match="token in clear") as refused:
            run_program(host=None, hosts=HOSTS, registry={"host": "arm", **settings})
        assert "pulumi config set --secret --path registry.token" in str(refused.value)
        assert "dckr" not in str(refused.value) + "".join(refused.value.args)


def test_keys_are_made_once_per_generation_and_name(
    run_program: Program,
) -> None:
    made = registry(run_program)["registry-certificates"]
    assert made.inputs["stdin"] == "arm.example\n1\n"
    assert made.inputs["logging"] == "none"
    assert set(made.request.ignoreChanges) >= {"addPreviousOutputInEnv", "create"}
    assert list(made.request.additionalSecretOutputs) == ["stdout"]


def test_blocked_private_networks_leave_the_registry_open(run_program: Program) -> None:
    run = registry(run_program, privateNetworks="block")
    servers = "EGRESS_SERVERS=arm.example:5000 arm.example:5001"
    assert servers in run["builder-eu1-daemon"].inputs["envs"]
    without = run_program(privateNetworks="block")["builder-daemon"].inputs["envs"]
    assert not [env for env in without if env.startswith("EGRESS_SERVERS")]


def test_the_client_export_is_secret(run_program: Program) -> None:
    client = registry(run_program).exports["registryClient"]
    assert client["store"] == "arm.example:5000"
    assert client["mirror"] == "arm.example:5001"
    assert client["key"] == blocks(CERTIFICATES)[4]


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ({"registry": {"host": "eu2"}}, "registry.host = 'eu2' must be the name of an entry"),
        ({"registry": {}, "hosts": [], "registryImage": "registry"}, "registryImage = 'registry'"),
        ({"registry": {"port": 5002}}, "registry.host = '' must be the name of an entry"),
        ({"registry": {"host": "arm", "port": 5001}}, "port = 5001 and mirrorPort = 5001"),
        ({"registry": {"host": "arm", "port": 2222}}, "sshPort = 2222; they must differ"),
        (
            {"registry": {"host": "arm"}, "metrics": "127.0.0.1:5001"},
            "registry has the port of metrics = '127.0.0.1:5001' on its host",
        ),
        ({"registry": {"host": "arm", "port": 0}}, "registry.port = '0'"),
        ({"registry": {"host": "arm", "prot": 1}}, "registry.prot is not a setting; did you mean"),
        ({"registry": {"host": "arm", "name": "a:1"}}, "registry.name = 'a:1' must be a host name"),
        ({"registry": {"host": "arm", "name": "127.0.0.1"}}, "next: pulumi config set --path"),
        ({"registry": {"host": "arm", "name": "172.17.0.1"}}, "not in 172.17.0.0/16"),
        ({"registry": {"host": "arm", "upstream": "docker.io"}}, "must be https://host[:port]"),
        ({"registry": {"host": "arm", "age": "1"}}, "registry.age = '1' must be an age"),
        ({"registry": {"host": "arm", "size": "1MB"}}, "registry.size = '1MB' must be at least"),
        ({"registry": {"host": "arm", "certificates": 0}}, "registry.certificates = '0'"),
        ({"registry": {"host": "arm", "user": "a"}}, "registry user is set without token"),
        (
            {"registry": {"host": "arm", "mirrors": [{"registry": "ghcr.io"}]}},
            "registry.mirrors[0].port is not set",
        ),
        (
            {"registry": {"host": "arm", "mirrors": [{"registry": "docker.io", "port": 1}]}},
            "is Docker Hub, whose mirror is there already",
        ),
        (
            {"registry": {"host": "arm", "mirrors": [{**QUAY, "port": 5001}]}},
            "port of quay.example:8443 = 5001",
        ),
        ({"registry": {"host": "arm", "mirrors": [QUAY, QUAY]}}, "has one registry twice"),
        (
            {"registry": {"host": "arm", "mirrors": [{**QUAY, "check": "a/b:1"}]}},
            "must be a repository without registry and tag",
        ),
    ],
)
def test_wrong_settings(settings: dict[str, Any], output: str) -> None:
    text = problems(**({"host": None, "hosts": HOSTS} | settings))
    assert output in text, text


@pytest.mark.parametrize(
    "settings", [{"user": "a", "token": "dckr_1\n"}, {"token": ["dckr_1"]}, {"token": "dckr_1"}]
)
def test_an_error_never_shows_a_token(settings: dict[str, Any]) -> None:
    for registry in (settings, {"mirrors": [{**QUAY, **settings}]}):
        text = problems(host=None, hosts=HOSTS, registry={"host": "arm", **registry})
        assert "registry" in text
        assert "dckr_1" not in text
    assert "dckr_1" not in problems(registry='{"token": "dckr_1"')


def test_a_stack_with_one_local_host_needs_the_registrys_address() -> None:
    assert "registry.name = ''" in problems(registry={"port": 5000})
    assert "registry.host = 'a'" in problems(registry={"host": "a", "name": "10.0.0.1"})


def test_certificates_have_their_names_and_uses(tmp_path: Path) -> None:
    script = ROOT / "components" / "registry" / "certificates.sh"
    for server, name in (("10.0.0.7", "IP Address:10.0.0.7"), ("eu1.example", "DNS:eu1.example")):
        made = subprocess.run(
            ["sh", str(script)], input=f"{server}\n1\n", text=True, capture_output=True, check=True
        )
        ca, certificate, key, client, client_key = blocks(made.stdout)
        (tmp_path / "ca").write_text(ca)
        for text, purpose in ((certificate, "sslserver"), (client, "sslclient")):
            verified = subprocess.run(
                ["openssl", "verify", "-CAfile", str(tmp_path / "ca"), "-purpose", purpose],
                input=text,
                text=True,
                capture_output=True,
                check=False,
            )
            assert verified.returncode == 0, verified.stderr
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-text"],
            input=certificate,
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        assert name in shown
        assert key != client_key
        assert "PRIVATE KEY" not in made.stderr


def test_nodes_get_the_registry_in_addition_to_the_users_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"store": "r:5000", "mirror": "r:5001", "ca": "C", "certificate": "D", "key": "K"}
    client = {**parts, "mirrored": {"ghcr.io": "r:5003"}}
    monkeypatch.setattr(Stack, "secret", lambda self, name: client)
    stack = Stack({"registryClient": "[secret]"}, {})
    (tmp_path / "own.toml").write_text("debug = true")
    folder = tmp_path / "files"
    folder.mkdir()
    path = fleet.with_registry(stack, str(tmp_path / "own.toml"), folder)
    assert path is not None
    config = tomllib.loads(Path(path).read_text())
    assert config["debug"] is True
    assert config["registry"]["docker.io"]["mirrors"] == ["r:5001"]
    assert config["registry"]["ghcr.io"]["mirrors"] == ["r:5003"]
    for server in ("r:5000", "r:5001", "r:5003"):
        assert Path(config["registry"][server]["ca"][0]).read_text() == "C"
        pair = config["registry"][server]["keypair"][0]
        assert Path(pair["key"]).read_text() == "K"
        assert Path(pair["cert"]).read_text() == "D"
        assert Path(pair["key"]).stat().st_mode & 0o077 == 0
    assert fleet.with_registry(Stack({}, {}), "x", folder) == "x"
