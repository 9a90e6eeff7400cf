"""A plan as a short Markdown page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from components.ssh_key import PublicKey
from policy.rules import IMAGE, violations
from review.effects import effects_of
from review.plan import BuilderPlan, Plan, Values

_SHOWN_ELSEWHERE = {"keys", "identities", "daemonImage", "gatewayImage", "guardImage"}
_COUNTED = {
    "create": "made",
    "update": "changed",
    "replace": "replaced",
    "delete": "removed",
    "same": "unchanged",
}
_LONGEST = 200

Row = tuple[str, str]


def page(stack: str, plan: Plan) -> str:
    """One section for one stack."""
    lines = [f"### Stack {code(stack)}", ""]
    if plan.errors:
        # Shown as it is, in a block that nothing in it can end.
        errors = "\n".join(plan.errors).replace("```", "'''")
        lines += ["**There is no plan:** `pulumi up` would fail and change nothing.", ""]
        lines += ["```", errors, "```", ""]
        return "\n".join(lines)
    for builder in plan.builders:
        if len(plan.builders) > 1:
            lines += [f"#### {builder.name}", ""]
        if plan.has_state:
            first = ("**it means**", "<br>".join(effects_of(builder).sentences))
        else:
            first = ("**it changes**", ", ".join(_declared(builder)) or "nothing")
        rows = [first, *_changes(builder)]
        lines += ["| | |", "| --- | --- |", *(f"| {what} | {how} |" for what, how in rows), ""]
    lines += [
        f"- **perhaps** {code(name)} changes too: it depends on the host, which is not asked here"
        for name in plan.uncertain
    ]
    for broken in violations(plan.resources):
        word = "refused" if broken.mandatory else "advice"
        lines += [f"- **{word}** ({broken.rule}): {code(broken.resource)} {broken.sentence}"]
    counts = [f"{plan.counts[op]} {word}" for op, word in _COUNTED.items() if plan.counts.get(op)]
    return "\n".join([*lines, "", f"Resources: {', '.join(counts) or 'none'}.", ""])


def code(value: object) -> str:
    """A value in a code span of a table cell, on one line, with nothing in it that ends either."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split()) or '""'
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    # A backslash hides the bar from the table, in a code span too (GitHub's and GitLab's Markdown).
    return "`" + text.replace("`", "'").replace("|", r"\|") + "`"


def _declared(builder: BuilderPlan) -> Iterator[str]:
    """The parts of a builder that two commits declare otherwise, and by which inputs."""
    verbs = {"create": "adds", "delete": "removes"}
    if builder.component.op in verbs:
        yield f"{verbs[builder.component.op]} {code(builder.name)}"
        return
    for role, step in builder.steps.items():
        if step.op in verbs:
            yield f"{verbs[step.op]} {code(role)}"
        elif step.op == "update":
            yield f"{code(role)} ({', '.join(step.changed)})"


def _changes(builder: BuilderPlan) -> Iterator[Row]:
    before, after = builder.component.before, builder.component.after
    yield from _entries("key", before.get("keys") or [], after.get("keys") or [], _key)
    old, new = (inputs.get("identities") or [] for inputs in (before, after))
    yield from _entries("identity", old, new, _identity)
    for role, step in builder.steps.items():
        if step.type == IMAGE and step.op != "same":
            yield role.replace("-", " "), _from_to(step.before.get("name"), step.after.get("name"))
    if builder.component.op == "update" and not before:
        yield "settings", "the state was written by a version that did not record them"
    elif builder.component.op == "update":
        for name in sorted({*before, *after} - _SHOWN_ELSEWHERE):
            if before.get(name) != after.get(name):
                yield code(name), _from_to(before.get(name), after.get(name))


def _from_to(before: object, after: object) -> str:
    if before is None:
        return code(after)
    return f"{code(before)} → {code(after) if after is not None else 'none'}"


def _entries(
    kind: str, before: list[Values], after: list[Values], shown: Callable[[Values], str]
) -> Iterator[Row]:
    old, new = ({str(entry.get("name")): entry for entry in each} for each in (before, after))
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"{kind} **added**", shown(new[name])
        elif name not in new:
            yield f"{kind} **removed**", shown(old[name])
        elif old[name] != new[name]:
            yield f"{kind} **changed**", f"{shown(old[name])} → {shown(new[name])}"


def _key(key: Values) -> str:
    conditions: list[str] = [
        f"{name} {code(', '.join(value) if isinstance(value, list) else value)}"
        for name, value in key.items()
        if name not in ("name", "publicKey") and value
    ]
    words: list[Any] = [code(key.get("name")), code(_fingerprint(key)), *conditions]
    return " ".join(words)


def _identity(rule: Values) -> str:
    claims = dict(rule.get("claims") or {})
    conditions = [
        *(f"{name} {code(rule[name])}" for name in ("issuer", "audience") if rule.get(name)),
        *(f"{name} {code(value)}" for name, value in sorted(claims.items())),
        *(f"{name} {code(rule[name])}" for name in ("role", "until", "issuerCa") if rule.get(name)),
    ]
    return " ".join([code(rule.get("name")), *conditions])


def _fingerprint(key: Values) -> str:
    try:
        return PublicKey.parse(str(key.get("publicKey"))).fingerprint
    except ValueError:
        return "no public key"
