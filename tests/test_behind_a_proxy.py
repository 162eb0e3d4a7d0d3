"""The page behind a real nginx and a real Caddy on loopback, as docs/behind-a-proxy.md sets them up
(without the TLS of the outer side).
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.server import auth
from tests.test_page import free_port, page_process

NAME, SECRET = "studio.invalid", "correct horse battery"
NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off;
client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{port}; location / {{
proxy_pass http://127.0.0.1:{page}; proxy_http_version 1.1;
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto https; proxy_buffering off; }} }} }}"""
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


def command(program: str, folder: Path, port: int, page: int) -> list[str]:
    file = folder / "config"
    text = {"nginx": NGINX, "caddy": CADDY}[program]
    file.write_text(text.format(folder=folder, port=port, page=page, name=NAME))
    if program == "nginx":
        return ["nginx", "-c", str(file), "-p", str(folder)]
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


def ask(
    port: int, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {"Host": NAME} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_the_page_answers_to_its_public_name(program: str, page: int, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(
            f"no {program}: apt-get install {'nginx-light' if program == 'nginx' else 'caddy'}"
        )
    port = free_port()
    process = subprocess.Popen(
        command(program, tmp_path, port, page), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                status, text = ask(port, "GET", "/")
                break
            except OSError:
                time.sleep(0.1)
        assert status == 200 and f"https://{NAME}" in text
        form = urllib.parse.urlencode({"username": auth.USER, "password": SECRET})
        typed = {
            "Content_Type": "application/x-www-form-urlencoded",
            "Sec_Fetch_Site": "same-origin",
        }
        assert ask(port, "POST", "/login", form, Origin=f"https://{NAME}", **typed)[0] == 200
        assert ask(port, "POST", "/login", form, Origin="https://evil.invalid", **typed)[0] == 403
    finally:
        process.terminate()
        process.wait(30)


def test_another_name_is_refused(page: int) -> None:
    assert ask(page, "GET", "/", Host="other.invalid")[0] == 400
