"""The page behind a real nginx and a real Caddy on loopback, as docs/behind-a-proxy.md has them.

Both also with TLS, under a certificate that is made here.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio.server import auth
from tests.proxies import missing
from tests.test_page import free_port, page_process

NAME, SECRET = "studio.invalid", "correct horse battery"
TLS = "ssl; ssl_certificate {folder}/certificate; ssl_certificate_key {folder}/key"
NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off;
client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{port} {tls}; location / {{
proxy_pass http://127.0.0.1:{page}; proxy_http_version 1.1;
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto {scheme}; proxy_buffering off; }} }} }}"""
# As documented: the name, the protocol and the client's address are Caddy's own doing
CADDY_TLS = """{{ admin off\n auto_https off\n default_sni {name}\n }}
https://{name}:{port} {{ bind 127.0.0.1\n tls {folder}/certificate {folder}/key
 reverse_proxy 127.0.0.1:{page} {{\n flush_interval -1\n }}\n }}\n"""
CADDY = """{{ admin off\n auto_https off\n }}\nhttp://{name}:{port} {{ bind 127.0.0.1
 reverse_proxy 127.0.0.1:{page} {{
 header_up Host {name}\n header_up X-Forwarded-Proto https\n flush_interval -1\n }}\n }}\n"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("proxied"), free_port()
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    given = (
        "--port",
        str(port),
        "--public-name",
        NAME,
        "--password-file",
        str(secret),
        "--workspace",
        str(folder / "w"),
    )
    with page_process(*given) as process:
        assert "open at" in process.stdout.readline()
        yield port


def command(
    program: str, folder: Path, port: int, page: int, *, encrypted: bool = False
) -> list[str]:
    file = folder / "config"
    text = {"nginx": NGINX, "caddy": CADDY_TLS if encrypted else CADDY}[program]
    tls = TLS.format(folder=folder) if encrypted else ""
    scheme = "$scheme" if encrypted else "https"
    places = {"folder": folder, "port": port, "page": page}
    file.write_text(text.format(**places, name=NAME, tls=tls, scheme=scheme))
    if program == "nginx":
        return ["nginx", "-c", str(file), "-p", str(folder)]
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


def ask(
    port: int,
    method: str,
    path: str,
    body: str | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[int, str]:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=tls)
    )
    named = {"Host": NAME} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text


@contextmanager
def proxy(
    program: str, folder: Path, page: int, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """The port of a proxy before the page, once it answers."""
    reason = missing(program)
    if reason is not None:
        pytest.skip(reason)
    port = free_port()
    process = subprocess.Popen(
        command(program, folder, port, page, encrypted=tls is not None),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            try:
                ask(port, "GET", "/", tls=tls)
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def check_public_name(port: int, tls: ssl.SSLContext | None = None) -> None:
    """The page's addresses are under its public name, and only that name's pages log in."""
    status, text = ask(port, "GET", "/", tls=tls)
    assert status == 200 and f"https://{NAME}" in text
    form = urllib.parse.urlencode({"username": auth.USER, "password": SECRET})
    typed = {
        "Content_Type": "application/x-www-form-urlencoded",
        "Sec_Fetch_Site": "same-origin",
    }

    def login(origin: str) -> int:
        return ask(port, "POST", "/login", form, tls=tls, Origin=origin, **typed)[0]

    assert login(f"https://{NAME}") == 200
    assert login("https://evil.invalid") == 403


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_page_answers_to_its_public_name(program: str, page: int, tmp_path: Path) -> None:
    with proxy(program, tmp_path, page) as port:
        check_public_name(port)


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_page_answers_behind_tls(program: str, page: int, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", f"/CN={NAME}", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.create_default_context(cafile=str(tmp_path / "certificate"))
    with proxy(program, tmp_path, page, tls) as port:
        check_public_name(port, tls)


def test_another_name_is_refused(page: int) -> None:
    status, text = ask(page, "GET", "/", Host="other.invalid")
    assert status == 400 and "asked for as other.invalid, which" in text


def test_a_proxy_that_asks_under_its_own_name_is_answered(page: int) -> None:
    """As nginx does where nothing is set: the browser's origin is the public name, Host is not."""
    form = urllib.parse.urlencode({"username": auth.USER, "password": SECRET})
    typed = {
        "Content_Type": "application/x-www-form-urlencoded",
        "Sec_Fetch_Site": "same-origin",
        "Host": f"127.0.0.1:{page}",
    }
    for origin, status in (
        (f"https://{NAME}", 200),
        (f"http://{NAME}", 403),
        (f"https://{NAME}.evil.invalid", 403),
        (f"https://{NAME}:8443", 403),
        ("null", 403),
    ):
        found, text = ask(page, "POST", "/login", form, Origin=origin, **typed)
        assert found == status, origin
        assert status == 200 or "--public-name" in text
