"""Where the broker is and how to log in to it; the only place here that reads the environment."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from sfi_agent.errors import SettingError

PORTS = {"mqtt": 1883, "mqtts": 8883}
FORM = "mqtt://[user[:password]@]host[:port], or mqtts:// for TLS"


@dataclass(frozen=True)
class Tls:
    """Files of a connection that is encrypted; each in PEM, None: nothing of the kind.

    Attributes:
        ca: certificates of the authorities to trust, instead of the system's.
        certificate: our own, for brokers that ask for one.
        key: of that certificate, not encrypted; None: it is in the same file.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None


@dataclass(frozen=True)
class Broker:
    """A broker's address and one user's credentials.

    Attributes:
        host: name or IP address.
        port: 1883, or 8883 with TLS, unless the URL says otherwise.
        tls: how to encrypt, or None; the broker's certificate is always checked.
        user: name to log in with, or None.
        password: ``SFI_MQTT_PASSWORD``: password of the user in a broker's URL, where neither the URL nor a
            file gives one. Neither ``repr`` nor ``address`` nor an error shows it.
    """

    host: str
    port: int
    tls: Tls | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The URL without user and password: for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def context(self) -> ssl.SSLContext | None:
        """What encrypts, or None.

        Raises:
            SettingError: a file of ``tls`` cannot be used.
        """
        if self.tls is None:
            return None
        files = self.tls
        try:
            made = ssl.create_default_context(cafile=files.ca)
            if files.certificate:
                made.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            named = ", ".join(f"{name} {path}" for name, path in vars(files).items() if path)
            raise SettingError(f"MQTT broker: cannot use {named}: {error}; give PEM files") from None
        return made

    @classmethod
    def of(cls, url: str | Broker, password: str | None = None, tls: Tls | None = None) -> Broker:
        """The broker that ``url`` names.

        Args:
            url: ``mqtt://[user[:password]@]host[:port]``, or ``mqtts://``; a Broker is taken as it is.
            password: instead of the URL's; where neither gives one, ``SFI_MQTT_PASSWORD``.
            tls: files for ``mqtts://``; None: the system's authorities, and no certificate of our own.

        Raises:
            SettingError: the URL cannot be used; the message leaves user and password out.
        """
        if isinstance(url, Broker):
            return url
        if tls and not url.startswith("mqtts://"):
            raise SettingError(f"MQTT broker: certificates need TLS; use {FORM}")
        parts = _split(url)
        secret = password or unquote(parts.password or "") or os.environ.get("SFI_MQTT_PASSWORD")
        user = unquote(parts.username) if parts.username else None
        if (password or parts.password) and user is None:
            raise SettingError(f"MQTT broker: a password needs a user in the URL; use {FORM}")
        return cls(
            host=parts.hostname or "",
            port=parts.port or PORTS[parts.scheme],
            tls=(tls or Tls()) if parts.scheme == "mqtts" else None,
            user=user,
            password=(secret or None) if user else None,
        )


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _split(url: str) -> SplitResult:
    """The URL in parts, or SettingError."""
    try:
        parts = urlsplit(url)
        valid = parts.port != 0
    except ValueError:  # its text may quote the password
        raise SettingError(f"MQTT broker: the host or port of the URL is not valid; use {FORM}") from None
    if parts.scheme not in PORTS:
        raise SettingError(f"MQTT broker: unknown scheme {_scheme(url)!r}; use {FORM}")
    if not valid or not parts.hostname:
        raise SettingError(f"MQTT broker: the URL has no host or a port of 0; use {FORM}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingError(f"MQTT broker: nothing may follow the port; use {FORM}")
    return parts


def _scheme(url: str) -> str:
    """What stands before ``://``, and nothing of what may be a user and a password."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator and "@" not in scheme else ""
