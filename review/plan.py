"""The plan in `pulumi preview --json --show-sames`, by builder and role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy.rules import BUILDER, CONTAINER, REGISTRY, Resource, type_of

NETWORK = "docker:index/network:Network"

# Messages that Pulumi adds to the one with the reason.
_SAYS_NOTHING = ("preview failed", "an unhandled error occurred: program exited")

# How Pulumi writes a value that is known only after the update.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """What the plan does to one resource."""

    op: str
    """same, create, update, replace or delete; a replacement is one step."""
    urn: str
    old: Values
    """The resource as the state has it; empty for a new one."""
    new: Values
    """The resource as it will be; empty for one that is removed."""
    changed: tuple[str, ...] = ()
    """Names of the inputs that differ."""

    @property
    def type(self) -> str:
        return str((self.new or self.old).get("type", ""))

    @property
    def name(self) -> str:
        return self.urn.rsplit("::", 1)[-1]

    @property
    def parent(self) -> str:
        return str((self.new or self.old).get("parent", ""))

    @property
    def before(self) -> Values:
        """Its inputs in the state; secrets are masked by Pulumi."""
        return self.old.get("inputs") or {}

    @property
    def after(self) -> Values:
        return self.new.get("inputs") or {}

    @property
    def goes(self) -> bool:
        """Whether the thing on the host is removed or replaced."""
        return self.op in ("replace", "delete")


@dataclass(frozen=True)
class BuilderPlan:
    """The steps of one builder, or of the stack's registry."""

    component: Step
    steps: dict[str, Step] = field(default_factory=dict)
    """Its children by role: `daemon`, `cache`, `host-key-1`."""

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def is_registry(self) -> bool:
        return type_of(self.component.urn) == REGISTRY

    def containers(self) -> Iterator[tuple[str, Step]]:
        """The running containers, without those that run a script once and end."""
        for role, step in self.steps.items():
            if step.type == CONTAINER and (step.after or step.before).get("mustRun") is not False:
                yield role, step

    def op(self, role: str) -> str:
        return self.steps[role].op if role in self.steps else "same"


@dataclass(frozen=True)
class Plan:
    """The plan of one stack."""

    builders: list[BuilderPlan]
    resources: list[Resource]
    """Everything that there will be, for the policy rules."""
    counts: dict[str, int]
    """How many resources have each op."""
    errors: list[str]
    """Why there is no complete plan, in Pulumi's words."""
    uncertain: list[str] = field(default_factory=list)
    """Containers of which this plan cannot tell whether they stay."""
    has_state: bool = True
    """False where two commits were compared: then an update may be a replacement."""

    @classmethod
    def of(cls, preview: Values) -> Plan:
        steps = [
            Step(
                step["op"],
                step["urn"],
                step.get("oldState") or {},
                step.get("newState") or {},
                tuple(step.get("diffReasons") or ()),
            )
            for step in preview.get("steps") or []
        ]
        shown = (BUILDER, REGISTRY)
        builders = {step.urn: BuilderPlan(step) for step in steps if step.type in shown}
        for step in steps:
            if type_of(step.parent) in shown:
                # A plan of destroy leaves out what stays.
                builder = builders.setdefault(
                    step.parent, BuilderPlan(Step("same", step.parent, {}, {}))
                )
                builder.steps[step.name.removeprefix(f"{builder.name}-")] = step
        return cls(
            builders=sorted(builders.values(), key=lambda builder: builder.name),
            resources=[
                Resource(
                    type=step.type,
                    name=step.name,
                    inputs=_known(step.after),
                    protect=bool(step.new.get("protect")),
                    parent=step.parent,
                    urn=step.urn,
                )
                for step in steps
                if step.new
            ],
            counts={op: int(n) for op, n in (preview.get("changeSummary") or {}).items()},
            errors=[
                message
                for diagnostic in preview.get("diagnostics") or []
                if diagnostic.get("severity") == "error"
                and (message := str(diagnostic["message"]).strip().removeprefix("error: "))
                and not message.startswith(_SAYS_NOTHING)
            ],
        )


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _known(item) for name, item in value.items() if item != UNKNOWN}
    if isinstance(value, list):
        return [_known(item) for item in value if item != UNKNOWN]
    return value
