"""What a runtime does, told over MQTT."""

from sfi_mqtt.events import MqttEvents

__all__ = ["MqttEvents"]
