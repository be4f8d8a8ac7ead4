"""TLS, certificates, passwords, and what a broker's access list lets each client hear."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sfi_agent import Runtime
from sfi_agent.errors import ServiceError, SettingError
from sfi_mqtt import Broker, BusRuntime, BusService, MqttEvents, Tls
from tests.integrations.sfi_mqtt.brokers import MOSQUITTO, PATIENCE, QUICK, Mosquitto, wait_until
from tests.integrations.sfi_mqtt.serving import NAME, tiny_runtime
from tests.integrations.sfi_mqtt.test_commands import command
from tests.integrations.sfi_mqtt.test_restarts import chat, whole

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(not OPENSSL, reason="needs openssl to make certificates")
SECRET = "s3cret-of-alice"
# paho leaves the socket of a failed handshake to the garbage collector.
LEAK = pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")


def openssl(folder: Path, *arguments: str) -> None:
    assert OPENSSL
    subprocess.run([OPENSSL, *arguments], cwd=folder, check=True, capture_output=True)


class Authority:
    """Makes certificates; each in ``NAME.pem``, its key in ``NAME.key``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority")
        openssl(folder, *new, "-keyout", "ca.key", "-out", "ca.pem")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")

    def sign(self, name: str, days: int = 2) -> None:
        new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}")
        openssl(self.folder, *new, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-days", str(days), *by)
        openssl(self.folder, *sign, "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"))
    for name, days in (("broker", 2), ("expired", -1), ("alice", 2), ("late", -1)):
        made.sign(name, days)
    return made


def secure(start: Callable[..., Mosquitto], authority: Authority, server: str, *more: str) -> str:
    """A broker with TLS; its URL."""
    folder = authority.folder
    broker = start(
        "allow_anonymous true",
        f"cafile {authority.ca}",
        f"certfile {folder}/{server}.pem",
        f"keyfile {folder}/{server}.key",
        *more,
    )
    return broker.url.replace("mqtt://", "mqtts://")


def test_turns_with_tls_and_a_certificate_of_our_own(
    start_broker: Callable[..., Mosquitto], authority: Authority, runtime: Runtime
) -> None:
    url = secure(
        start_broker, authority, "broker", "require_certificate true", "use_identity_as_username true"
    )
    tls = Tls(authority.ca, authority.folder / "alice.pem", authority.folder / "alice.key")
    broker = Broker.of(url, tls=tls)
    with (
        BusService(broker, runtime, name=NAME, backoff=QUICK),
        BusRuntime(broker, NAME, patience=PATIENCE, backoff=QUICK) as client,
    ):
        assert whole(client, chat("Count to 3.")) == "1 2 3 ."


@LEAK
def test_an_expired_certificate_of_the_broker_is_told_once(
    start_broker: Callable[..., Mosquitto], authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker.of(secure(start_broker, authority, "expired"), tls=Tls(authority.ca))
    with MqttEvents(broker, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: bool(events._connection.problem))
        assert not events.connected
    (told,) = [r.getMessage() for r in caplog.records if r.name == "sfi_mqtt.connection"]
    assert "certificate has expired" in told


@LEAK
def test_an_expired_certificate_of_our_own_is_told(
    start_broker: Callable[..., Mosquitto], authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    url = secure(start_broker, authority, "broker", "require_certificate true")
    folder = authority.folder
    broker = Broker.of(url, tls=Tls(authority.ca, folder / "late.pem", folder / "late.key"))
    with MqttEvents(broker, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: "certificate expired" in caplog.text)
        assert not events.connected


@LEAK
def test_an_unknown_authority_is_refused(
    start_broker: Callable[..., Mosquitto], authority: Authority
) -> None:
    url = secure(start_broker, authority, "broker")
    with MqttEvents(url, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: bool(events._connection.problem))
        assert "certificate verify failed" in events._connection.problem
        assert not events.connected


@pytest.mark.parametrize("files", [Tls(ca="nowhere.pem"), Tls(certificate="nowhere.pem")])
def test_files_that_cannot_be_used_are_refused_at_once(files: Tls) -> None:
    with pytest.raises(SettingError, match=r"cannot use .*nowhere\.pem.*give PEM files"):
        MqttEvents(Broker.of("mqtts://127.0.0.1", tls=files), runtime="r1")


def test_an_encrypted_key_is_refused_without_asking(authority: Authority) -> None:
    locked = authority.folder / "locked.key"
    openssl(authority.folder, "rsa", "-aes256", "-passout", "pass:x", "-in", "alice.key", "-out", str(locked))
    files = Tls(authority.ca, authority.folder / "alice.pem", locked)
    with pytest.raises(SettingError, match="the key is encrypted"):
        MqttEvents(Broker.of("mqtts://127.0.0.1", tls=files), runtime="r1")


def test_certificates_need_tls() -> None:
    with pytest.raises(SettingError, match="certificates need TLS; use mqtt"):
        Broker.of("mqtt://127.0.0.1", tls=Tls(ca="ca.pem"))


def passwords(folder: Path) -> list[str]:
    """Settings of a broker that knows alice and bob, each of whom hears replies to the own name alone."""
    assert MOSQUITTO
    tool = shutil.which("mosquitto_passwd", path=f"{os.environ['PATH']}:{Path(MOSQUITTO).parent}:/usr/bin")
    if tool is None:
        pytest.skip("needs mosquitto_passwd")
    file = folder / "passwords"
    file.touch(mode=0o600)
    for user in ("alice", "bob", "desk"):
        subprocess.run([tool, "-b", str(file), user, SECRET], check=True, capture_output=True)
    rules = folder / "rules"
    rules.write_text(
        f"""user desk
topic readwrite sfi/{NAME}/#

pattern read sfi/+/status
pattern write sfi/+/requests
pattern read sfi/+/replies/%u/#
""",
        encoding="utf-8",
    )
    for path in (file, rules):
        path.chmod(0o600)
    return ["allow_anonymous false", f"password_file {file}", f"acl_file {rules}"]


def test_users_hear_what_the_broker_lets_them(
    start_broker: Callable[..., Mosquitto],
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Replies go to a topic of the user's; nobody else may read it, and no secret is in any log."""
    monkeypatch.setenv("SFI_MQTT_PASSWORD", SECRET)
    broker = start_broker(*passwords(tmp_path))
    desk, alice = (broker.url.replace("//", f"//{user}@") for user in ("desk", "alice"))
    with (
        caplog.at_level(logging.DEBUG),
        BusService(desk, runtime, name=NAME, backoff=QUICK),
        BusRuntime(alice, NAME, patience=PATIENCE, backoff=QUICK) as client,
    ):
        assert whole(client, chat("Count to 3.")) == "1 2 3 ."
        assert client.reply_topic.startswith(f"sfi/{NAME}/replies/alice/")
        monkeypatch.setenv("SFI_MQTT_PASSWORD", "wrong")
        with (
            BusRuntime(alice, NAME, patience=10 * PATIENCE, backoff=QUICK) as refused,
            pytest.raises(ServiceError, match="the broker refuses user 'alice': check the URL's user"),
        ):
            whole(refused, chat("Hello"))  # told at once, not after the client's patience
    assert SECRET not in caplog.text


def test_a_password_file_is_read_and_its_secret_shown_nowhere(
    start_broker: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ``ps``, with the environment too, nor what the commands write has it."""
    monkeypatch.delenv("SFI_MQTT_PASSWORD", raising=False)
    log = tmp_path / "mosquitto.log"
    broker = start_broker(*passwords(tmp_path), f"log_dest file {log}", "log_type all")
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    wrong.write_text(f"not-{SECRET}\n", encoding="utf-8")
    at = ("--broker", broker.url.replace("//", "//desk@"))
    model = tmp_path / "model"
    with tiny_runtime(None) as tiny:
        tiny.model.save_pretrained(model)
        tiny.tokenizer.save_pretrained(model)
    serve = ("bus", *at, "--name", NAME, "--model", str(model))
    with (
        command(*serve, "--password-file", str(secret)) as bus,
        command("tail", *at, "--password-file", str(secret)) as tail,
        command(*serve, "--password-file", str(wrong)) as refused,
    ):
        assert tail.stdout
        assert "status online" in tail.stdout.readline()
        shown = subprocess.run(["ps", "axeww"], check=True, capture_output=True, text=True).stdout
        assert f"--password-file {secret}" in shown
        bus.send_signal(signal.SIGTERM)
        tail.send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=PATIENCE * 4) for process in (bus, tail, refused)]
    assert (bus.returncode, tail.returncode, refused.returncode) == (0, 0, 1)
    assert "answers on sfi/" in told[0][1]
    last = told[2][1].splitlines()[-1]
    assert last.startswith(f"error: {broker.url}: the broker refuses user 'desk': check")
    for written in (shown, str(told), log.read_text(encoding="utf-8")):
        assert SECRET not in written
