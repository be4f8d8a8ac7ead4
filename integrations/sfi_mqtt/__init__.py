"""A runtime on an MQTT broker: what it does, and turns from anywhere.

::

    MqttEvents    a plugin that publishes a runtime's events
    BusService    the same, and it answers requests
    BusRuntime    the client: a runtime elsewhere, for SFIChatModel and for scripts
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfi_mqtt.broker import Broker as Broker
    from sfi_mqtt.broker import Tls as Tls
    from sfi_mqtt.client import BusRuntime as BusRuntime
    from sfi_mqtt.desk import Limits as Limits
    from sfi_mqtt.events import MqttEvents as MqttEvents
    from sfi_mqtt.service import BusService as BusService

_LAZY = {
    "Broker": "sfi_mqtt.broker",
    "BusRuntime": "sfi_mqtt.client",
    "BusService": "sfi_mqtt.service",
    "Limits": "sfi_mqtt.desk",
    "MqttEvents": "sfi_mqtt.events",
    "Tls": "sfi_mqtt.broker",
}
__all__ = ["Broker", "BusRuntime", "BusService", "Limits", "MqttEvents", "Tls"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sfi_mqtt' has no attribute {name!r}")
