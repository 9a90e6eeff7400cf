"""Each wrong setting is reported with its value and the next step, all at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pydantic.alias_generators import to_camel

from components.settings import Size, StackSettings
from tests.unit.conftest import CONFIG, KEY, OTHER_KEY, PRIVATE_KEY, ROOT, Run

ADA = {"name": "ada", "publicKey": KEY}


def problems(**settings: Any) -> str:
    raw = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in {**CONFIG, **settings}.items()
        if value is not None
    }
    with pytest.raises(ValueError, match="nothing was created") as raised:
        StackSettings.parse(raw)
    return str(raised.value)


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ({"keys": None}, "keys is empty"),
        ({"keys": []}, "pulumi config set --path 'keys[0].name'"),
        ({"keys": [{"name": "a"}]}, "keys[0].publicKey is not set"),
        ({"keys": [{"name": "a", "publicKey": "hello"}]}, "keys[0].publicKey = 'hello' is not an"),
        ({"keys": [{"name": "a", "publicKey": KEY[:-8]}]}, "is cut short or damaged"),
        ({"keys": [{"name": "a", "publicKey": "no-pty " + KEY}]}, "starts with options"),
        ({"keys": [{"name": "a", "publicKey": PRIVATE_KEY}]}, "(not shown) is a private key"),
        ({"keys": [{"name": "a", "publicKey": KEY, "form": []}]}, "did you mean from?"),
        ({"keys": [{"name": "a b", "publicKey": KEY}]}, "keys[0].name = 'a b' must be 1 to 64"),
        (
            {"keys": [{"name": "a", "publicKey": KEY, "until": "2020-13-01"}]},
            "keys[0].until = '2020-13-01'",
        ),
        (
            {"keys": [{"name": "a", "publicKey": KEY, "from": ["10.0.0.0/99"]}]},
            "'10.0.0.0/99' must be an address or a CIDR range",
        ),
        (
            {"keys": [{"name": "a", "publicKey": KEY}, {"name": "a", "publicKey": OTHER_KEY}]},
            "keys has the name 'a' twice",
        ),
        (
            {"keys": [{"name": "a", "publicKey": KEY}, {"name": "b", "publicKey": KEY}]},
            "keys has one key under two names, 'a' and 'b'",
        ),
        ({"keys": [{"name": "a", "publicKey": "ssh-dss AAAA"}]}, "is a DSA key"),
        (
            {"keys": [{"name": "a", "publicKey": KEY, "principals": ['x",no-pty']}]},
            "must be 1 to 128",
        ),
        (
            {"keys": [{"name": "a", "publicKey": KEY, "role": "root"}]},
            "keys[0].role = 'root' must be 'admin' or 'build'",
        ),
        (
            {"keys": [{"name": "a", "publicKey": KEY, "role": "build"}], "transport": "tls"},
            "keys gives a the role build, which transport = tls cannot serve",
        ),
        ({"guardImage": "python"}, "guardImage = 'python' must be pinned"),
        ({"revoked": [{"fingerprint": "MD5:aa"}]}, "must be as `ssh-keygen -lf` shows it"),
        ({"revoked": [{"serial": 3}]}, "must be one of {fingerprint: SHA256:...}"),
        ({"revoked": [{"ca": "nobody", "serial": 3}]}, "revoked names nobody as ca"),
        ({"host": "tcp://10.0.0.1:2375"}, "host = 'tcp://10.0.0.1:2375' must be unix:///path"),
        ({"host": "ssh://build.example"}, "the user is missing"),
        ({"host": "ssh://ops@build.example:99999"}, "port 1 to 65535"),
        ({"host": "ssh://-oProxyCommand=x@build.example"}, "letters, digits, dots and dashes"),
        ({"host": "unix://docker.sock"}, "an absolute path"),
        ({"host": "ssh://ops@build.example"}, "ssh-keyscan -t ed25519 build.example"),
        ({"host": "ssh://ops@build.example", "hostKey": "AAAA"}, "hostKey = 'AAAA' is not an"),
        ({"prepare": "perhaps"}, "prepare = 'perhaps' "),
        ({"sshPort": 0}, "sshPort = '0' must be a whole number from 1 to 65535"),
        ({"sshPort": 70000}, "sshPort = '70000' must be a whole number from 1 to 65535"),
        ({"sshPort": "ssh"}, "sshPort = 'ssh' must be a whole number from 1 to 65535"),
        ({"sshAddress": "eth0"}, "sshAddress = 'eth0' must be an IPv4 address"),
        ({"sshHost": "a:b/c"}, "sshHost = 'a:b/c' must be a host name"),
        ({"sshprot": 22}, "sshprot is not a setting; did you mean sshPort?"),
        ({"daemonImage": "Docker:29"}, "daemonImage = 'Docker:29' must be an image reference"),
        ({"daemonImage": "docker"}, "must be pinned"),
        ({"gatewayImage": "lscr.io/x/y:latest"}, "must be pinned"),
        ({"transport": "tcp"}, "transport = 'tcp' must be 'socket' or 'tls'"),
        ({"isolation": "some"}, "isolation = 'some' must be 'unprivileged' or 'privileged'"),
        ({"privateNetworks": "deny"}, "privateNetworks = 'deny' must be 'allow' or 'block'"),
        (
            {"privateNetworks": "block", "isolation": "privileged"},
            "privateNetworks = 'block' needs isolation = 'unprivileged'",
        ),
        (
            {"privateNetworksExcept": ["10.0.0.1/8"]},
            "privateNetworksExcept[0] = '10.0.0.1/8' must be an address or a CIDR range",
        ),
        (
            {"imageStore": "vfs"},
            "imageStore = 'vfs' must be 'keep', 'containerd' or 'overlay2'",
        ),
        ({"cacheSize": "lots"}, "cacheSize = 'lots' must be a size such as 50GB"),
        ({"cacheSize": "10MB"}, "cacheSize = '10MB' must be at least 1GB"),
        ({"cacheSize": ""}, "cacheSize = '' must be a size"),
        ({"cacheSize": "95%"}, "cacheSize = '95%' must be a share from 1% to 90%"),
        ({"minFreeSpace": "some"}, "minFreeSpace = 'some' must be a size such as 50GB or 512MiB,"),
        ({"minFreeSpace": "5MB"}, "minFreeSpace = '5MB' must be at least 100MB"),
        ({"imageAge": "14 days"}, "imageAge = '14 days' must be an age: a whole number and s, m,"),
        ({"imageAge": "0d"}, "imageAge = '0d' must be at least 10s"),
        ({"leftoverAge": "1"}, "leftoverAge = '1' must be an age"),
        ({"processes": 20}, "processes = '20' must be a whole number from 500 to 1000000"),
        ({"keepImages": ["a b"]}, "keepImages[0] = 'a b' must be an image name"),
        ({"memory": "12 parsecs"}, "memory = '12 parsecs' must be a size"),
        ({"cpus": "many"}, "cpus = 'many' must be a number of CPUs"),
        ({"hostKeys": [1, 1]}, "hostKeys must be different whole numbers"),
        ({"hostKeys": []}, "hostKeys"),
        ({"insecureRegistries": ["http://r"]}, "insecureRegistries[0] = 'http://r' must be host"),
        ({"keys": "[{"}, "keys = '[{': must be JSON"),
    ],
)
def test_one_wrong_setting(settings: dict[str, Any], output: str) -> None:
    assert output in problems(**settings)


def test_all_problems_are_reported_together() -> None:
    text = problems(keys=[], host="tcp://x", sshPort=0, cacheSize="x", daemonImage="A", nonsense=1)
    assert text.startswith("6 settings are not usable")
    for name in ("keys", "host", "sshPort", "cacheSize", "daemonImage", "nonsense"):
        assert f"  - {name}" in text


def test_all_problems_of_access_are_reported_together() -> None:
    text = problems(
        keys=[
            {"name": "a", "publicKey": "ssh-dss AAAA"},
            {"name": "b c", "publicKey": "no-pty " + KEY},
            {"name": "d", "publicKey": KEY, "until": "some day", "from": ["10.0.0.1/8"]},
            {"name": "e", "publicKey": KEY, "principals": ["x y"], "expires": "never"},
        ],
        revoked=[{"fingerprint": "MD5:aa"}, {"serial": 3}],
    )
    assert text.startswith("9 settings are not usable")
    for name in (
        "keys[0].publicKey",
        "keys[1].name",
        "keys[1].publicKey",
        "keys[2].until",
        "keys[2].from",
        "keys[3].principals",
        "keys[3].expires",
        "revoked[0].fingerprint",
        "revoked[1]",
    ):
        assert f"  - {name} " in text, name


def test_a_private_key_is_never_repeated() -> None:
    text = problems(keys=[{"name": "a", "publicKey": PRIVATE_KEY}], sshHost=PRIVATE_KEY)
    assert "b3BlbnNzaA" not in text


def test_the_program_stops_before_it_registers_anything(run_program: Callable[..., Run]) -> None:
    with pytest.raises(pulumi.RunError, match="sshPort"):
        run_program(sshPort=0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GB", 50 * 10**9), ("1.5T", 1.5 * 10**12), ("512MiB", 512 * 2**20), ("1024", 1024)],
)
def test_sizes_as_people_write_them(text: str, size: float) -> None:
    assert Size.parse(text).bytes == size


def test_the_schema_in_pulumi_yaml_and_the_settings_agree() -> None:
    schema = yaml.safe_load(Path(ROOT, "Pulumi.yaml").read_text())["config"]
    assert set(schema) == {to_camel(name) for name in StackSettings.model_fields}
    assert all(declared["description"] for declared in schema.values())


def test_the_engine_and_a_program_get_the_same_defaults() -> None:
    """The engine passes the defaults as text; a program that declares a component omits them."""
    schema = yaml.safe_load(Path(ROOT, "Pulumi.yaml").read_text())["config"]
    text = {
        name: d if isinstance(d := declared["default"], str) else json.dumps(d)
        for name, declared in schema.items()
    }
    filled_in = StackSettings.parse({**text, "keys": json.dumps(CONFIG["keys"])})
    assert filled_in == StackSettings.of({"keys": CONFIG["keys"]})


def test_arguments_are_plain_and_read_back_the_same() -> None:
    keys = [{"name": "ada", "publicKey": KEY, "from": ["10.0.0.0/8"], "until": "2030-01-01"}]
    settings = StackSettings.of({"keys": keys, "ssh_port": 2200, "cpus": "1.5"})
    assert settings.arguments["keys"] == [{**keys[0], "principals": [], "role": "admin"}]
    assert json.loads(json.dumps(settings.arguments)) == settings.arguments
    assert StackSettings.of(settings.arguments) == settings


def test_arguments_by_a_name_that_is_no_setting_are_refused() -> None:
    with pytest.raises(ValueError, match="sshport is not a setting; did you mean sshPort"):
        StackSettings.of({"keys": CONFIG["keys"], "sshport": 22})


def test_a_wrong_argument_is_told_by_the_name_of_the_setting() -> None:
    with pytest.raises(ValueError, match="nothing was created") as raised:
        StackSettings.of({"keys": [{"name": "ada", "public_key": "x"}], "ssh_port": 0.0})
    assert "keys[0].publicKey = 'x' is not an OpenSSH public key" in str(raised.value)
    assert "sshPort = '0' must be a whole number from 1 to 65535" in str(raised.value)


def test_fingerprints_are_those_of_ssh_keygen() -> None:
    settings = StackSettings.parse({**CONFIG, "keys": json.dumps(CONFIG["keys"])})
    assert settings.keys[0].public_key.fingerprint.startswith("SHA256:")
    assert len(settings.keys[0].public_key.fingerprint) == len("SHA256:") + 43


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"keepCache": "maybe"}, "keepCache = 'maybe' must be true or false"),
        ({"platforms": "linux/amd64"}, "platforms = 'linux/amd64' must be a list"),
        ({"registry": "yes"}, "registry = 'yes' must be a map of settings"),
        ({"hosts": [1]}, "hosts[0] = '1' must be a map of settings"),
        *(
            (
                {"keys": [{**ADA, "until": day}]},
                f"keys[0].until = '{day}' must be a day, YYYY-MM-DD",
            )
            for day in ("tomorrow", "2026-13-01", "20261201", "2026-12-01T10:00:00")
        ),
        ({"keys": [{**ADA, "from": "10.0.0.1"}]}, "keys[0].from = '10.0.0.1' must be a list"),
        ({"keys": [{**ADA, "name": 5}]}, "keys[0].name = '5' must be text"),
    ],
)
def test_a_value_of_another_type_is_answered_with_the_type(
    settings: dict[str, Any], problem: str
) -> None:
    assert problem in problems(**settings)
