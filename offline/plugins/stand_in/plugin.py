"""A Pulumi plugin made of plain Python classes, on pulumi.provider.experimental.

A `Kind` says which inputs a resource type has and which of them replace it. This module does the
protocol: unknown values in previews, secrets, defaults, diffs, errors without a Python traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from pulumi.provider.experimental import provider as protocol
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime import rpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, provider_pb2_grpc

Properties = dict[str, Any]
"""Plain values: str, float, bool, None, list, dict; UNKNOWN in previews."""

_MESSAGE_BYTES = 400 * 1024 * 1024
_DIFF_NONE, _DIFF_SOME = 1, 2
# How often a plugin looks whether its engine is there; official ones do it every five minutes.
_SECONDS_BETWEEN_CHECKS = 2
# The defaults that the official plugin fills in inside ports, healthchecks and uploads.
_NESTED_DEFAULTS: tuple[Any, ...] = (None, [], {}, "", False, "0s", "tcp", "0.0.0.0")
_T = TypeVar("_T")
# The resource that the current thread works on.
_urn: ContextVar[str] = ContextVar("urn", default="")


class Unknown:
    """A value that is known only after the update."""


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Input:
    """The official plugin's rules for one input."""

    replaces: bool = True
    """Whether a change replaces the resource (ForceNew upstream)."""
    default: Any = None
    computed: bool = False
    """Whether leaving it out keeps the current value (Computed upstream)."""
    unordered: bool = False
    """Whether it is a set upstream, where order does not matter."""


class Kind(ABC):
    """One type of resource."""

    inputs: Mapping[str, Input]
    required: tuple[str, ...] = ()
    auto_named: bool = False
    delete_before_replace: bool = False
    computed: tuple[str, ...] = ()
    """Outputs that exist only after creation."""
    show: Callable[[str], None] = staticmethod(lambda _: None)
    """Show a line beside the resource while it is created or changed."""

    @abstractmethod
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """Create it; returns its id and state. Raises an exception whose text is for people."""

    @abstractmethod
    def read(self, identifier: str, state: Properties) -> Properties | None:
        """Its current state; None if it no longer exists."""

    def update(self, identifier: str, state: Properties, inputs: Properties) -> Properties:
        """Change it in place; returns its state."""
        raise NotImplementedError

    @abstractmethod
    def delete(self, identifier: str, state: Properties) -> None:
        """Delete it; no error if it no longer exists."""


@dataclass
class StandIn(protocol.Provider):
    """A plugin with several kinds of resources."""

    version: str
    kinds: Mapping[str, Kind]
    functions: Mapping[str, Callable[[Properties], Properties]] = field(default_factory=dict)
    on_configure: Callable[[Properties], None] = lambda _: None
    known_settings: frozenset[str] = field(default_factory=frozenset)

    async def get_schema(self, request: protocol.GetSchemaRequest) -> protocol.GetSchemaResponse:
        """The kinds, for programs in YAML, which read it: every input may have any type."""
        resources = {}
        for token, kind in self.kinds.items():
            inputs = {key: {"$ref": "pulumi.json#/Any"} for key in kind.inputs}
            resources[token] = {
                "inputProperties": inputs,
                "requiredInputs": kind.required,
                "properties": {**inputs, **{key: {"type": "string"} for key in kind.computed}},
            }
        name = next(iter(self.kinds)).split(":")[0]
        return protocol.GetSchemaResponse(
            json.dumps({"name": name, "version": self.version, "resources": resources})
        )

    async def check_config(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        failures = [
            protocol.CheckFailure(name, f"{name} is not known to this stand-in plugin")
            for name in request.new_inputs
            if name not in {*self.known_settings, "version"} and not name.startswith("__")
        ]
        return protocol.CheckResponse(request.new_inputs, failures)

    async def diff_config(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        changed = plain(request.old_state) != plain(request.new_inputs)
        response = protocol.DiffResponse()
        # The server passes this value to protobuf, where 1 means "none" and 2 means "some".
        response.changes = _DIFF_SOME if changed else _DIFF_NONE  # type: ignore[assignment]
        return response

    async def configure(self, request: protocol.ConfigureRequest) -> protocol.ConfigureResponse:
        self.on_configure(plain(request.args))
        return protocol.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        kind = self._kind(request.type)
        inputs = {n: v for n, v in request.new_inputs.items() if v.value is not None}
        failures = [
            protocol.CheckFailure(name, f"{name} is not an input of {request.type}")
            for name in inputs
            if name not in kind.inputs and not name.startswith("__")
        ]
        if kind.auto_named and "name" not in inputs:
            old = request.old_inputs.get("name")
            inputs["name"] = old or PropertyValue(f"{request.name}-{secrets.token_hex(4)[:7]}")
        for name, rule in kind.inputs.items():
            if rule.default is not None and name not in inputs:
                inputs[name] = rich(rule.default)
        failures += [
            protocol.CheckFailure(name, f"Missing required argument: {name}")
            for name in kind.required
            if name not in inputs
        ]
        return protocol.CheckResponse(inputs, failures)

    async def diff(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        kind = self._kind(request.type)
        old, new = plain(request.old_state), plain(request.new_inputs)
        changed = [
            name
            for name, rule in kind.inputs.items()
            if name not in request.ignore_changes and _differs(rule, old.get(name), new.get(name))
        ]
        replaced = [name for name in changed if kind.inputs[name].replaces]
        diff_kind = protocol.PropertyDiffKind
        return protocol.DiffResponse(
            changes=bool(changed),
            replaces=replaced,
            diffs=changed,
            delete_before_replace=kind.delete_before_replace,
            detailed_diff={
                name: protocol.PropertyDiff(
                    diff_kind.UPDATE_REPLACE if name in replaced else diff_kind.UPDATE, False
                )
                for name in changed
            },
        )

    async def create(self, request: protocol.CreateRequest) -> protocol.CreateResponse:
        kind = self._kind(request.type)
        if request.preview:
            return protocol.CreateResponse("", _planned(kind, request.properties))
        inputs = plain(request.properties)
        _urn.set(request.urn)
        identifier, state = await asyncio.to_thread(kind.create, inputs)
        return protocol.CreateResponse(identifier, _with_secrets(state, request.properties))

    async def read(self, request: protocol.ReadRequest) -> protocol.ReadResponse:
        kind = self._kind(request.type)
        state = plain(request.properties)
        now = await asyncio.to_thread(kind.read, request.resource_id, state)
        if now is None:
            return protocol.ReadResponse("")
        return protocol.ReadResponse(
            request.resource_id, _with_secrets(now, request.properties), request.inputs
        )

    async def update(self, request: protocol.UpdateRequest) -> protocol.UpdateResponse:
        kind = self._kind(request.type)
        if request.preview:
            return protocol.UpdateResponse(_planned(kind, request.news))
        state, inputs = plain(request.olds), plain(request.news)
        _urn.set(request.urn)
        now = await asyncio.to_thread(kind.update, request.resource_id, state, inputs)
        return protocol.UpdateResponse(_with_secrets(now, request.news))

    async def delete(self, request: protocol.DeleteRequest) -> None:
        kind = self._kind(request.type)
        await asyncio.to_thread(kind.delete, request.resource_id, plain(request.properties))

    async def invoke(self, request: protocol.InvokeRequest) -> protocol.InvokeResponse:
        function = self.functions[request.tok]
        answer = await asyncio.to_thread(function, plain(request.args))
        return protocol.InvokeResponse({name: rich(value) for name, value in answer.items()})

    async def cancel(self) -> None:
        return None

    def _kind(self, token: str) -> Kind:
        # The engine puts the parents' types in front, joined by "$".
        token = token.rsplit("$", 1)[-1]
        if token not in self.kinds:
            raise ValueError(
                f"{token} is not covered by this stand-in plugin (it covers "
                f"{', '.join(self.kinds)}); install the official plugin"
            )
        return self.kinds[token]


def _differs(rule: Input, old: Any, new: Any) -> bool:
    if new in (None, [], {}, ""):
        return not rule.computed and old not in (None, [], {}, "", False, 0, 0.0, rule.default)
    return _comparable(rule, old) != _comparable(rule, new)


def _comparable(rule: Input, value: Any) -> Any:
    if isinstance(value, list) and rule.unordered:
        return sorted(
            (_without_empty(item) for item in value),
            key=lambda v: json.dumps(v, sort_keys=True, default=str),
        )
    return _without_empty(value)


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: _without_empty(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in _NESTED_DEFAULTS}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Property values as plain Python, with secrets decrypted."""
    if isinstance(value, PropertyValue):
        value = value.value
    if value == rpc.UNKNOWN:
        return UNKNOWN
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def rich(value: Any) -> PropertyValue:
    """Plain Python as a property value."""
    if isinstance(value, Unknown):
        # The SDK has PropertyValue.computed() and cannot send it.
        return PropertyValue(rpc.UNKNOWN)
    if isinstance(value, dict):
        return PropertyValue({name: rich(item) for name, item in value.items()})
    if isinstance(value, list):
        return PropertyValue([rich(item) for item in value])
    if isinstance(value, int) and not isinstance(value, bool):
        return PropertyValue(float(value))
    return PropertyValue(value)


def _with_secrets(
    state: Properties, source: Mapping[str, PropertyValue]
) -> dict[str, PropertyValue]:
    return {
        name: rich(value).with_secret(name in source and source[name].contains_secret())
        for name, value in state.items()
    }


def _planned(kind: Kind, inputs: Mapping[str, PropertyValue]) -> dict[str, PropertyValue]:
    return {**inputs, **{name: rich(UNKNOWN) for name in kind.computed}}


class _Servicer(ProviderServicer):
    """The SDK's servicer, with errors for people: only the text, no traceback."""

    async def Create(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Create(request, context), context)

    async def Update(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Update(request, context), context)

    async def Delete(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Delete(request, context), context)

    async def Read(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Read(request, context), context)

    async def Invoke(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Invoke(request, context), context)

    async def Check(self, request: Any, context: Any) -> Any:
        return await _for_people(super().Check(request, context), context)


async def _for_people(call: Awaitable[_T], context: Any) -> _T:
    try:
        return await call
    except Exception as error:
        # The SDK raises a new exception with the traceback in its text.
        await context.abort(grpc.StatusCode.UNKNOWN, str(error.__context__ or error))
        raise


async def _engine_is_gone(address: str) -> None:
    """Return when the engine no longer answers, as rpcutil.Healthcheck of Pulumi's SDK sees it."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_CHECKS)
            try:
                await check(b"")
            except grpc.aio.AioRpcError as error:
                # Only an engine that is there can say that it has no such service.
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return


def serve(plugin: StandIn) -> None:
    """Serve until the engine ends this process or is gone. Standard output has only the port."""
    parser = argparse.ArgumentParser(description="stand-in Pulumi plugin; the engine starts it")
    parser.add_argument("engine", help="address of the engine")
    arguments, _ = parser.parse_known_args()

    engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(arguments.engine))

    def show(line: str) -> None:
        engine.Log(engine_pb2.LogRequest(severity=engine_pb2.INFO, message=line, urn=_urn.get()))

    for kind in plugin.kinds.values():
        kind.show = show

    async def run() -> None:
        limits = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
        server = grpc.aio.server(options=limits)
        servicer = _Servicer([], plugin.version, plugin, engine_address=arguments.engine)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await _engine_is_gone(arguments.engine)
        # asyncio.run then waits for the threads, so what the engine had begun ends first.
        await server.stop(grace=None)

    asyncio.run(run())
