"""Each rule of the policy pack, with examples that pass and that violate it."""

from __future__ import annotations

from typing import Any

import pytest

from policy import rules
from policy.rules import (
    BUILDER,
    CONTAINER,
    IMAGE,
    PROVIDER,
    REGISTRY,
    VOLUME,
    Resource,
    violations,
)

BUILDER_URN = f"urn:pulumi:dev::p::{BUILDER}::builder"
REGISTRY_URN = f"urn:pulumi:dev::p::{REGISTRY}::registry"


def resource(type_: str, role: str = "daemon", protect: bool = False, **inputs: Any) -> Resource:
    return Resource(type_, f"builder-{role}", inputs, protect, BUILDER_URN, f"urn::{role}")


def store(*envs: str) -> Resource:
    """A registry's container with these variables."""
    inputs = {"ports": [{"internal": 5000}], "envs": [*envs]}
    return Resource(CONTAINER, "registry-store", inputs, parent=REGISTRY_URN, urn="urn::store")


ASKS = "REGISTRY_HTTP_TLS_CLIENTCAS=[/ca.crt]"


def container(inputs: Any) -> Resource:
    return resource(CONTAINER, **inputs)


def builder(**inputs: Any) -> Resource:
    return Resource(BUILDER, "builder", inputs, urn=BUILDER_URN)


def output(*resources: Resource) -> set[str]:
    return {violation.rule for violation in violations(list(resources))}


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (rules.images_are_pinned, resource(IMAGE, name=right), resource(IMAGE, name=wrong))
        for right, wrong in [
            ("docker:29.9.3-dind-rootless", "docker"),
            ("r.example:5000/a/b:1", "r.example:5000/a/b"),
            ("docker@sha256:" + "a" * 64, "docker:latest"),
        ]
    ]
    + [
        (rules.images_are_pinned, resource(CONTAINER, image=right), resource(CONTAINER, image="x"))
        for right in ("sha256:abc", "x:1")
    ]
    + [
        (rules.no_plain_tcp, container(right), container(wrong))
        for right, wrong in [
            (
                {"command": ["dockerd", "--host=unix:///run/docker.sock"]},
                {"command": ["dockerd", "--host=tcp://0.0.0.0:2375"]},
            ),
            (
                {"envs": ["DOCKER_HOST=tcp://docker:2376", "DOCKER_TLS_VERIFY=1"]},
                {"envs": ["DOCKER_HOST=tcp://docker:2375"]},
            ),
            ({"envs": ["DOCKER_TLS_CERTDIR=/certs"]}, {"envs": ["DOCKER_TLS_CERTDIR="]}),
        ]
    ]
    + [
        (
            rules.no_plain_tcp,
            resource(PROVIDER, "host", host="unix:///var/run/docker.sock"),
            resource(PROVIDER, "host", host="tcp://build.example:2376"),
        ),
        (
            rules.nothing_of_the_host_is_mounted,
            resource(CONTAINER, volumes=[{"volumeName": "cache", "containerPath": "/c"}]),
            resource(CONTAINER, volumes=[{"hostPath": "/var/run/docker.sock"}]),
        ),
        (
            rules.nothing_of_the_host_is_mounted,
            resource(CONTAINER, mounts=[{"type": "volume", "source": "cache"}]),
            resource(CONTAINER, mounts=[{"type": "bind", "source": "/"}]),
        ),
        (
            rules.no_namespace_of_the_host,
            resource(CONTAINER, networkMode="none"),
            resource(CONTAINER, networkMode="host"),
        ),
        (
            rules.only_what_asks_for_keys_is_published,
            resource(CONTAINER, "gateway", ports=[{"internal": 2222, "external": 22}]),
            resource(CONTAINER, "gateway", ports=[{"internal": 2375, "external": 2375}]),
        ),
        (
            rules.only_what_asks_for_keys_is_published,
            resource(CONTAINER, "daemon"),
            resource(CONTAINER, "daemon", ports=[{"internal": 2222, "external": 2222}]),
        ),
        (
            rules.only_what_asks_for_keys_is_published,
            resource(
                CONTAINER,
                "metrics-page",
                ports=[{"internal": 9105}],
                volumes=[{"volumeName": "reports", "readOnly": True}],
            ),
            resource(
                CONTAINER,
                "metrics-page",
                ports=[{"internal": 9105}],
                volumes=[
                    {"volumeName": "reports", "readOnly": True},
                    {"volumeName": "runtime", "readOnly": True},
                ],
            ),
        ),
        (
            rules.only_what_asks_for_keys_is_published,
            store(ASKS),
            store("REGISTRY_HTTP_TLS_CLIENTCAS=[]"),
        ),
        (
            rules.only_what_asks_for_keys_is_published,
            store(ASKS),
            resource(CONTAINER, "store", **store(ASKS).inputs),
        ),
        (
            rules.the_host_is_known,
            resource(
                PROVIDER,
                host="ssh://ops@h",
                sshOpts=["-o", "StrictHostKeyChecking=yes", "-o", "KnownHostsCommand=/bin/echo k"],
            ),
            resource(PROVIDER, host="ssh://ops@h", sshOpts="StrictHostKeyChecking=yes"),
        ),
    ]
    + [
        (rules.values_settle, container(right), container(wrong))
        for right, wrong in [
            ({"cpus": "2.0"}, {"cpus": "2"}),
            ({"cpus": "1.5"}, {"cpus": "1.50"}),
            ({"memory": 512, "memorySwap": 512}, {"memory": 512}),
            ({"capabilities": {"adds": ["CAP_KILL"]}}, {"capabilities": {"adds": ["KILL"]}}),
            ({"capabilities": {"drops": ["ALL"]}}, {"capabilities": {"drops": ["KILL"]}}),
            ({"hosts": [{"ip": "10.0.0.1"}]}, {"hosts": [{"ip": "::1"}]}),
            ({"healthcheck": {"interval": "1m0s"}}, {"healthcheck": {"interval": "60s"}}),
            ({"healthcheck": {"interval": "30s"}}, {"healthcheck": {"interval": "1m"}}),
            (
                {"securityOpts": ["seccomp=unconfined"]},
                {"securityOpts": ["systempaths=unconfined"]},
            ),
            (
                {
                    "securityOpts": ["systempaths=unconfined"],
                    "labels": [{"label": "docker-build-machine.isolation", "value": "a"}],
                },
                {"securityOpts": ["systempaths=unconfined"], "labels": [{"label": "b"}]},
            ),
        ]
    ],
)
def test_a_rule_accepts_right_and_refuses_wrong_resources(
    rule: rules.Rule, right: Resource, wrong: Resource
) -> None:
    assert list(rule(right)) == []
    assert len(list(rule(wrong))) == 1
    assert rules.name_of(rule) in output(wrong)


def test_a_kept_cache_is_protected_and_another_is_reported() -> None:
    kept, loose = resource(VOLUME, "cache", protect=True), resource(VOLUME, "cache")
    assert output(builder(keepCache=True), kept) == set()
    assert output(builder(keepCache=True), loose) == {"kept-caches-are-protected"}
    assert output(builder(keepCache=False), loose) == {"caches-are-kept"}
    assert output(loose) == {"kept-caches-are-protected"}
    assert output(builder(keepCache=True), resource(VOLUME, "runtime")) == set()


def test_only_a_daemon_with_that_setting_is_privileged() -> None:
    daemon = resource(CONTAINER, "daemon", privileged=True)
    gateway = resource(CONTAINER, "gateway", privileged=True)
    rule = {"privileged-where-declared"}
    assert output(builder(isolation="privileged"), daemon) == set()
    assert output(builder(isolation="unprivileged"), daemon) == rule
    assert output(builder(isolation="privileged"), gateway) == rule
    assert output(builder(isolation="unprivileged"), resource(CONTAINER, "daemon")) == set()


def test_advice_does_not_refuse() -> None:
    levels = {
        violation.rule: violation.mandatory
        for violation in violations(
            [builder(keepCache=False), resource(CONTAINER, cpus="2", networkMode="host")]
        )
    }
    assert levels == {
        "caches-are-kept": False,
        "values-settle": False,
        "no-namespace-of-the-host": True,
    }


def test_rules_are_for_builders_and_registries_wherever_they_are_declared() -> None:
    inputs = {"image": "nginx", "ports": [{"internal": 80}], "privileged": True}
    assert not output(Resource(CONTAINER, "web", inputs, parent="", urn="urn::web"))
    assert not output(Resource(CONTAINER, "web", inputs, parent="urn:pulumi:a::p::my:Site::s"))
    ours = "urn:pulumi:dev::docker-build-machine::docker:index/container:Container::web"
    assert output(Resource(CONTAINER, "web", inputs, parent="", urn=ours))
    # Below a component of another program, a builder is one still.
    nested = f"urn:pulumi:dev::p::my:Platform${BUILDER}::builder"
    assert {"images-are-pinned", "only-what-asks-for-keys-is-published"} <= output(
        Resource(CONTAINER, "builder-daemon", inputs, parent=nested)
    )
    store = f"urn:pulumi:dev::p::my:Platform${REGISTRY}::registry"
    opened = {"ports": [{"internal": 5000}], "envs": [ASKS], "image": "registry:3.1.1"}
    assert not output(Resource(CONTAINER, "registry-store", opened, parent=store))
