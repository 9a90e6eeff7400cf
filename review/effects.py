"""What a plan means for those who build: what stops, for how long, and what is lost."""

from __future__ import annotations

from dataclasses import dataclass

from components.layout import IMAGE_STORE_VARIABLE
from review.plan import NETWORK, BuilderPlan, Step

_REMADE = {
    "gateway": "restarts the gateway: open connections drop, about 2 s",
    "guard": "restarts the guard: what keys with the role build have in flight is cut",
    "verifier": "restarts the verifier: for seconds no token is accepted; connections stay",
    "metrics": "restarts the metrics: what they count begins with 0",
    "metrics-page": "restarts the page of the metrics; for seconds nobody can read it",
    "janitor": "restarts the janitor; builds do not notice",
    "store": "restarts the store: pushes in flight get 10 s to end, then they fail",
    "mirror": "restarts the mirror: builders pull from its upstream meanwhile",
}
_WHO = ("keys", "revoked", "identities")


@dataclass(frozen=True)
class Effects:
    """What one builder's plan means."""

    sentences: tuple[str, ...]
    """For people, the worst first."""
    containers_gone: frozenset[str]
    """Roles of the running containers that are removed or replaced."""
    drains: bool
    """Whether builds in flight get time to end before the daemon goes."""
    deletes_cache: bool

    @property
    def drops_connections(self) -> bool:
        return "gateway" in self.containers_gone


def effects_of(plan: BuilderPlan) -> Effects:
    """The effects of the plan's steps."""
    gone = frozenset(role for role, step in plan.containers() if step.goes)
    # A new network takes the daemon away before its builds are drained.
    network_goes_first = any(s.type == NETWORK and s.op == "replace" for s in plan.steps.values())
    drains = plan.op("drain") in ("create", "replace") and not network_goes_first
    deletes_cache = "cache" in plan.steps and _deletes(plan.steps["cache"])
    if plan.is_registry:
        sentences = _registry(plan, gone)
    elif plan.component.op == "create":
        sentences = ["adds a builder"]
    elif plan.op("daemon") == plan.op("gateway") == "delete":
        kept = [] if "cache" in plan.steps else ["the cache and the host key stay"]
        sentences = [*_cache(plan), "removes the builder: builds in flight fail", *kept]
    else:
        sentences = [
            *_cache(plan),
            *_host(plan),
            *_daemon(plan, drains),
            *_image_store(plan),
            *(sentence for role, sentence in _REMADE.items() if role in gone),
            *_other_containers(plan),
            *_host_keys(plan),
            *_address(plan),
            *([] if gone else ["nothing restarts"]),
            *_access(plan),
        ]
    return Effects(tuple(sentences), gone, drains, deletes_cache)


def _registry(plan: BuilderPlan, gone: frozenset[str]) -> list[str]:
    if plan.component.op == "create":
        return ["adds a registry"]
    if plan.component.op == "delete":
        return ["removes the registry, with everything in it"]
    certificates = plan.op("certificates") in ("update", "replace")
    return [
        *(
            ["makes new certificates: clients with the old ones are refused"]
            if certificates
            else []
        ),
        *(sentence for role, sentence in _REMADE.items() if role in gone),
        *([] if gone else ["nothing restarts"]),
    ]


def _deletes(volume: Step) -> bool:
    kept = volume.old.get("retainOnDelete") or volume.old.get("protect")
    return volume.goes and not kept


def _cache(plan: BuilderPlan) -> list[str]:
    volume = plan.steps.get("cache")
    if volume is None:
        return []
    was, will_be = volume.old.get("protect"), volume.new.get("protect")
    if _deletes(volume):
        return ["DELETES the cache"]
    if volume.goes and was:
        return ["is refused: the cache would go, and it is protected (keepCache)"]
    if volume.goes:
        return ["the cache leaves the stack, and its volume stays on the host"]
    if was and not will_be:
        return ["the cache is no longer kept: the next pulumi destroy DELETES it, and the host key"]
    if volume.op != "create" and will_be and not was:
        return ["the cache and the host key are kept from now on"]
    return []


def _host(plan: BuilderPlan) -> list[str]:
    was, will_be = plan.component.before.get("host"), plan.component.after.get("host")
    if was is None or was == will_be:
        return []
    return [
        f"uses another Docker host ({will_be}): nothing is moved there, the builder on {was} "
        "is left behind; use a stack of its own for the new host"
    ]


def _daemon(plan: BuilderPlan, drains: bool) -> list[str]:
    op = plan.op("daemon")
    if op == "update":
        return ["changes the daemon in place; builds go on"]
    if op not in ("replace", "delete", "create"):
        return []
    if not drains:
        return ["recreates the daemon: builds in flight fail at once; the cache stays"]
    time = plan.component.after.get("drainTime")
    waiting = ", new ones wait" if plan.component.before.get("transport") != "tls" else ""
    return [
        f"recreates the daemon: builds in flight get {time} to end{waiting}, then they fail; "
        "the cache stays"
    ]


def _image_store(plan: BuilderPlan) -> list[str]:
    if "daemon" not in plan.steps:
        return []
    variables = plan.steps["daemon"].before.get("envs") or []
    stores = [text for text in variables if text.startswith(f"{IMAGE_STORE_VARIABLE}=")]
    # The daemons of earlier releases, which knew overlay2 only, have no such variable.
    old = stores[0].partition("=")[2] if stores else "overlay2"
    new = plan.component.after.get("imageStore", "keep")
    if not variables or new in ("keep", old):
        return []
    return [
        f"changes the image store from {old} to {new}: the cache is COLD, and images in {old} are "
        f"not seen; they stay on the disk until make free, and are back after a change back"
    ]


def _other_containers(plan: BuilderPlan) -> list[str]:
    verbs = {"create": "adds", "delete": "removes", "replace": "restarts", "update": "changes"}
    return [
        f"{verbs[step.op]} the {role}"
        for role, step in plan.containers()
        if step.op in verbs
        and role != "daemon"
        and not (role in _REMADE and step.op in ("replace", "delete"))
    ]


def _host_keys(plan: BuilderPlan) -> list[str]:
    sentences = []
    before, after = (
        list(inputs.get("hostKeys") or [])
        for inputs in (plan.component.before, plan.component.after)
    )
    if before and after and before[0] != after[0]:
        known = (
            "clients that have it in known_hosts connect as before"
            if after[0] in before
            else ("no client has it in known_hosts yet, so EVERY client refuses the builder")
        )
        sentences.append(f"presents host key {int(after[0])} instead of {int(before[0])}: {known}")
    for role, step in plan.steps.items():
        if not role.startswith("host-key-"):
            continue
        number = role.removeprefix("host-key-")
        if step.op == "create":
            sentences.append(f"makes host key {number}: hand out the new knownHosts")
        elif step.op == "delete":
            sentences.append(f"removes host key {number}: clients that know no other are refused")
        elif step.op == "replace":
            sentences.append(f"REPLACES host key {number}: every client refuses the builder")
    return sentences


def _address(plan: BuilderPlan) -> list[str]:
    before, after = (
        (inputs.get("sshHost") or inputs.get("host"), inputs.get("sshPort"))
        for inputs in (plan.component.before, plan.component.after)
    )
    if not plan.component.before or before == after:
        return []
    return ["the gateway has another address: every client needs the new sshConfig"]


def _access(plan: BuilderPlan) -> list[str]:
    before, after = plan.component.before, plan.component.after
    if not before or all(before.get(name) == after.get(name) for name in _WHO):
        return []
    return [
        "who gets in changes with the next login; open connections of a removed key are closed "
        "within seconds, and so are those of a removed or changed identity"
    ]
