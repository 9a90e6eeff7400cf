"""The rules as a policy pack: `pulumi preview --policy-pack policy`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pulumi_policy as pack
from pulumi_policy.proxy import UnknownValueError

from policy import rules


def _plain(value: Any) -> Any:
    """The known parts of a value; the pack's own mappings raise for the others."""
    if isinstance(value, Mapping):
        known = {}
        for name in value:
            try:
                known[name] = _plain(value[name])
            except UnknownValueError:
                continue
        return known
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = []
        for index in range(len(value)):
            try:
                items.append(_plain(value[index]))
            except UnknownValueError:
                continue
        return items
    return value


# Inputs by URN. Rules of stacks need them, and Pulumi passes outputs alone to these.
_inputs: dict[str, Mapping[str, Any]] = {}


def _resource(args: Any) -> rules.Resource:
    of_stack = isinstance(args, pack.PolicyResource)
    inputs = _inputs.get(args.urn, {}) if of_stack else _plain(args.props)
    parent = (args.parent.urn if args.parent else "") if of_stack else args.opts.parent
    return rules.Resource(
        type=args.resource_type,
        name=args.name,
        inputs=_inputs.setdefault(args.urn, inputs),
        protect=args.opts.protect,
        parent=parent or "",
        urn=args.urn,
    )


def _of_resources(rule: rules.Rule, level: pack.EnforcementLevel) -> pack.Policy:
    def validate(args: Any, report: Any) -> None:
        resource = _resource(args)
        for sentence in rule(resource) if resource.is_ours else ():
            report(sentence)

    return pack.ResourceValidationPolicy(rules.name_of(rule), str(rule.__doc__), validate, level)


def _of_stacks(rule: rules.StackRule, level: pack.EnforcementLevel) -> pack.Policy:
    def validate(args: Any, report: Any) -> None:
        resources = [_resource(resource) for resource in args.resources]
        for resource, sentence in rule([resource for resource in resources if resource.is_ours]):
            report(sentence, resource.urn)

    return pack.StackValidationPolicy(rules.name_of(rule), str(rule.__doc__), validate, level)


_REFUSE, _WARN = pack.EnforcementLevel.MANDATORY, pack.EnforcementLevel.ADVISORY
pack.PolicyPack(
    "docker-build-machine",
    [
        *(_of_resources(rule, _REFUSE) for rule in rules.MANDATORY),
        *(_of_resources(rule, _WARN) for rule in rules.ADVISORY),
        *(_of_stacks(rule, _REFUSE) for rule in rules.MANDATORY_OF_STACKS),
        *(_of_stacks(rule, _WARN) for rule in rules.ADVISORY_OF_STACKS),
    ],
)
