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

from components.settings import Settings, Size, StackSettings
from tests.issuer import issuing
from tests.unit.conftest import CONFIG, KEY, OTHER_KEY, PRIVATE_KEY, ROOT, Run

ADA = {"name": "ada", "publicKey": KEY}
GOOD: dict[str, Any] = {"keys": [ADA]}
PINNED = {"repository": "acme/app"}


def rule(**changes: Any) -> dict[str, Any]:
    """An entry of the setting identities."""
    usual = {"name": "main", "issuer": "https://gitlab.com", "audience": "b.example"}
    return {**usual, "claims": PINNED, **changes}


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
        *(
            ({"metrics": text}, "must be an IPv4 address of the Docker host and a port")
            for text in ("9105", "127.0.0.1", "localhost:9105", "127.0.0.1:0", "::1:9105")
        ),
        ({"metrics": "127.0.0.1:70000"}, "metrics = '127.0.0.1:70000' must be an IPv4 address"),
        ({"metrics": "127.0.0.1:2222"}, "metrics = '127.0.0.1:2222' has the port of sshPort"),
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
        (
            {"traces": "c:4318"},
            "traces = 'c:4318' must be https://host[:port] or http://host[:port],",
        ),
        ({"traces": "http://c:4318/"}, "without user, query, fragment and a / at the end"),
        ({"traces": "http://a:b@c"}, "traces = 'http://a:b@c' must be https://host[:port] or"),
        ({"keys": "[{"}, "keys = '[{': must be JSON"),
        ({"identities": [rule(name="ada")]}, "identities has the name ada twice"),
        ({"identities": [rule(), rule()]}, "identities has the name main twice"),
        ({"identities": [rule(issuer_ca="x")]}, "identities[0].issuerCa = 'x' must be cert"),
        (
            {"identities": [rule()], "transport": "tls"},
            "identities gives main the role build, which is the default",
        ),
        (
            {"identities": [rule(claims={**PINNED, "aud": "x"})]},
            "main has the claim aud, which is checked in any case",
        ),
        ({"identities": [rule(name="a\n")]}, "identities[0].name = 'a\\n' must be 1 to 64 letters"),
        ({"identities": [rule(claims={**PINNED, "ref": "x\n"})]}, "printable ASCII characters"),
        ({"identities": [rule(claims={**PINNED, "a b": "x"})]}, "which is no name of a claim"),
        (
            {"identities": [rule(claims={**PINNED, "ref": "refs/heads/m\u0430in"})]},
            "must be 1 to 300 printable ASCII characters, since other letters can look the same",
        ),
    ],
)
def test_one_wrong_setting(settings: dict[str, Any], output: str) -> None:
    assert output in problems(**settings)


@pytest.mark.parametrize(
    "issuer",
    [
        "http://gitlab.com",
        "gitlab.com",
        "https://",
        "https://user@gitlab.com",
        "https://gitlab.com?x",
        "https://gitlab.com#x",
        "https://GitLab.com",
        "https://gitlab.com:0",
        "https://gitlab.com:x",
        "https://gitl\u0430b.com",
        "https://gitlab.com\n",
        "https://a\\b",
    ],
)
def test_an_issuer_is_an_https_url(issuer: str) -> None:
    text = problems(identities=[rule(issuer=issuer)])
    assert "identities[0].issuer = " in text
    assert "must be an https:// URL without user, query and fragment" in text


@pytest.mark.parametrize("audience", ["", "ab", "*", "a b c", "abc\n", "builder#x", "b\u00fcilder"])
def test_a_rule_needs_an_audience_of_its_own(audience: str) -> None:
    assert "identities[0].audience = " in problems(identities=[rule(audience=audience)])
    without = {name: value for name, value in rule().items() if name != "audience"}
    assert "identities[0].audience is not set" in problems(identities=[without])


OPEN: list[dict[str, str]] = [
    {},
    {"ref": "refs/heads/main"},
    {"ref": "refs/heads/main", "ref_protected": "true", "environment": "production"},
    {"repository": "*"},
    {"repository": "*/app"},
    {"repository": "acme*"},
    {"repository": "ac*/app"},
    {"repository": "/app"},
    {"project_path": "*"},
    {"project_path": "*/*"},
    {"repository_owner": "*"},
    {"repository_owner": "acme*"},
    {"repository_id": "7*"},
    {"namespace_path": "acme/*"},
    {"sub": "*"},
    {"sub": "repo:*"},
    {"sub": "repo:*/app:ref:refs/heads/main"},
    {"sub": "repo:ac*/app:*"},
    {"sub": "repo:acme@*/app@74:ref:refs/heads/main"},
    {"job_project_path": "acme/app"},
    {"job_project_id": "20"},
    {"sub": "project_path:*"},
    {"sub": "organization:*"},
    {"sub": "org/*"},
    {"sub": "*:main"},
    {"oidc.circleci.com/vcs-origin": "github.com/*"},
    {"event_name": "push", "actor": "ada"},
    {"email": "*@acme.example"},
]


@pytest.mark.parametrize("claims", OPEN)
def test_a_rule_that_names_no_owner_is_refused(claims: dict[str, str]) -> None:
    text = problems(identities=[rule(claims=claims)])
    assert "identities[0].claims lets in jobs of any owner at this issuer" in text


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "acme/app"},
        {"repository": "acme/*", "ref": "refs/heads/*"},
        {"repository_owner": "acme"},
        {"repository_owner_id": "65"},
        {"project_path": "acme/group/*"},
        {"namespace_id": "72"},
        {"sub": "repo:acme/app:ref:refs/heads/main"},
        {"sub": "repo:acme/*:ref:refs/heads/main"},
        {"sub": "repo:acme@65/app@74:ref:refs/heads/main"},
        {"sub": "repo:acme@65/*:ref:refs/heads/main"},
        {"sub": "project_path:acme/*:ref_type:branch:ref:main"},
        {"sub": "organization:acme:pipeline:*:ref:refs/heads/main:commit:*:step:*"},
        {"sub": "org/0a1b/project/*"},
        {"sub": "{6b1a4f0e-9d3c}:*"},
        {"sub": "somebody"},
        {"organization_slug": "acme"},
        {"oidc.circleci.com/vcs-origin": "github.com/acme/*"},
        {"repositoryUuid": "{6b1a4f0e-9d3c}"},
    ],
)
def test_a_rule_that_names_its_owner_is_good(claims: dict[str, str]) -> None:
    given = rule(claims=claims)
    (identity,) = Settings.of({**GOOD, "identities": [given]}).identities
    assert identity.claims == claims
    assert identity.role == "build"


def test_claims_can_be_true_or_a_number() -> None:
    claims = {**PINNED, "ref_protected": True, "build_number": 7, "x": False, "y": 7.0}
    (identity,) = Settings.of({**GOOD, "identities": [rule(claims=claims)]}).identities
    texts = {"ref_protected": "true", "build_number": "7", "x": "false", "y": "7"}
    assert identity.claims == {**PINNED, **texts}


def test_all_rules_of_an_issuer_trust_the_same_certificates(tmp_path: Path) -> None:
    with issuing(tmp_path) as issuer:
        one, other = rule(issuer_ca=issuer.ca), rule(name="other")
    assert "different values of issuerCa" in problems(identities=[one, other])


def test_an_expired_rule_has_no_effect() -> None:
    settings = Settings.of({**GOOD, "identities": [rule(until="2020-01-01")]})
    assert settings.active_identities == ()
    assert not settings.has_build_keys
    assert Settings.of({**GOOD, "identities": [rule(until="2999-01-01")]}).has_build_keys


def test_a_changed_rule_has_another_digest() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"role": "admin"},
        {"audience": "other"},
        {"until": "2999-01-01"},
    ]
    changes.append({"claims": {**PINNED, "ref": "x"}})
    rules = [Settings.of({**GOOD, "identities": [rule(**c)]}).identities[0] for c in changes]
    assert len({identity.digest for identity in rules}) == len(changes)


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


def test_an_error_of_an_argument_has_the_name_of_the_setting() -> None:
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
def test_an_error_of_another_type_names_the_type(settings: dict[str, Any], problem: str) -> None:
    assert problem in problems(**settings)
